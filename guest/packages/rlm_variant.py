"""Imported after `rlm_boot` in a variant of the guest that has packages, before its image is taken.

What the packages want to have imported then stands below; the build adds it.
"""

