"""Imported once, while the guest's base image is made: everything a session starts with.

After this module the linear memory is written out, so what is imported here costs a session
nothing. Guest code can rewrite all of it; nothing in these files is a security control.
"""

import gc

# What models reach for. An import that is missing here still works; it is only slower.
import abc, argparse, array, ast, base64, bisect, calendar, collections, collections.abc  # noqa: E401
import contextlib, copy, csv, dataclasses, datetime, decimal, difflib, enum, fnmatch, fractions  # noqa: E401
import functools, glob, hashlib, heapq, html, html.parser, inspect, io, itertools, json, keyword  # noqa: E401
import linecache, logging, math, numbers, operator, os, os.path, pathlib, pickle, pprint, queue  # noqa: E401
import random, re, secrets, shlex, statistics, string, struct, tempfile, textwrap, threading, time  # noqa: E401
import tokenize, traceback, types, typing, unicodedata, urllib.parse, uuid, warnings, weakref  # noqa: E401
import xml.etree.ElementTree, zlib, zoneinfo, asyncio, concurrent.futures.thread  # noqa: E401

import sys

import rlm_asyncio
import rlm_files
import rlm_missing
import rlm_notebook
import rlm_repl
import rlm_threads

# A module that a cell writes into the current folder can be imported.
sys.path.append("")
rlm_asyncio.install()
rlm_threads.install()
rlm_missing.install()
rlm_notebook.install()

run_cell = rlm_repl.run_cell
set_context = rlm_repl.set_context
settle = rlm_repl.settle

# One cell of each kind now, so that the first cell of a session touches no cold code: every page
# written here is one that no session has to copy.
# Often enough for the interpreter to have specialised its code: that writes into it as well.
for _ in range(40):
    for _warm in ("1+1", "print('warm')", "x = 1\nx", "raise ValueError('warm')", "x = [", "len(context)",
                  "import asyncio\nawait asyncio.sleep(0)", "async def f(): return 1\nasyncio.run(f())",
                  "SHOW_VARS()", "def f(a): return [b for b in range(a)]\nf(3)", "del x"):
        run_cell(_warm, None if _ else bytes(32), rlm_repl.VARIABLES | rlm_repl.VALUE)
rlm_repl.reset()

# A small-object bomb spends its time in the collector at the default threshold: 55 s to a
# MemoryError at 128 MiB instead of 1.6 s.
gc.set_threshold(100_000, 20, 100)
gc.collect()
