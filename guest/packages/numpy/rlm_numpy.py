"""numpy as a session finds it: imported and warm, and its random numbers the session's own.

Whatever is drawn while the image is made is the same in every session, numpy's old global generator among it. So
it is seeded again with what seeds `random`: for each session and each fork. `default_rng()` asks the host.
"""

import gc

import numpy
import numpy.fft
import numpy.linalg
import numpy.ma
import numpy.polynomial
import numpy.random
import numpy.strings

import rlm_repl

_WORD = 0xFFFF_FFFF
_WORDS = 8


def reseed(number):
    numpy.random.seed([number >> 32 * index & _WORD for index in range(_WORDS)])


rlm_repl.reseeds.append(reseed)

# As rlm_boot does: the first use in a session is to touch no cold code.
for _ in range(4):
    for _warm in ("import numpy as np\nnp.arange(10).sum()", "a = np.ones((3, 3))\na @ a",
                  "np.random.rand(3).mean()", "np.array([1.5, 2])", "np.linalg.inv(np.eye(2))",
                  "np.zeros(3) / 0", "np.linspace(0, 1, 5).reshape(5, 1)"):
        rlm_repl.run_cell(_warm, bytes(32), True)
rlm_repl.reset()
gc.collect()
