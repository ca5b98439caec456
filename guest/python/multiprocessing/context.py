from multiprocessing import *  # noqa: F403
from multiprocessing import BaseProcess, ProcessError, TimeoutError  # noqa: F401
