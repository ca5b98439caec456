"""What stands around a worker process: one module a layer, put together by `layers.py`.

Linux on x86-64. A layer that this kernel does not give is reported as missing, with the kernel's
reason; whoever requires it does not get a worker.
"""
