"""What the guest's CPython is trained with: its counters decide how the final one is compiled.

The programs are of the kind that a model writes about a long text, and of the kind that run around
them: cells compiled, shown and reported, questions asked. No clock, no host and no chance is in
them, so that every run counts the same. Compiled well is what occurs here, and about as much better
as it occurs more often; a program takes a tenth of a second to a few seconds where it is trained.
"""

import training_cells
import training_data
import training_objects
import training_numbers
import training_text

PROGRAMS = (
    *training_cells.PROGRAMS,
    *training_text.PROGRAMS,
    *training_data.PROGRAMS,
    *training_objects.PROGRAMS,
    *training_numbers.PROGRAMS,
)


def train():
    for program, times in PROGRAMS:
        for _ in range(times):
            program()
