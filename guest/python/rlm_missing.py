"""What is not here: a sentence, where code looks for it, that says what to do instead.

Whoever only asks whether a module is there (`importlib.util.find_spec`, `except ImportError`) gets the
answer that he would get anywhere.
"""

import builtins
import errno
import os
import sys

import _sitebuiltins

NO_NETWORK = "there is no network here: the data is in `context`, and llm_query asks a language model"
NO_PROCESSES = "there are no other processes and no shell here: do it in Python, in this session"
NO_SCREEN = "there is no screen and no keyboard here: print what is to be seen"
NO_INSTALLING = "nothing can be installed here: there is Python's standard library"
NO_LIBRARIES = "no shared libraries can be loaded here: do it in Python"
NO_DEBUGGER = "nobody can answer a debugger here: print what you want to know"
ASK_A_MODEL = "models are asked with llm_query(prompt) here, many at once with llm_query_batched(prompts)"


def _use(what):
    return f"it is not installed, and nothing can be: use {what}"


_MODULES = {
    **dict.fromkeys(
        """requests requests_html httpx aiohttp urllib3 httplib2 pycurl websocket websockets paramiko fabric boto3
        botocore s3fs gcsfs selenium playwright scrapy mechanize redis pymongo psycopg psycopg2 asyncpg mysql pymysql
        MySQLdb pyodbc cx_Oracle oracledb kafka pika grpc zmq flask fastapi uvicorn django tornado yfinance wikipedia
        wikipediaapi arxiv praw tweepy duckduckgo_search ddgs serpapi tavily googlesearch googleapiclient gspread
        huggingface_hub kaggle _ssl pandas_datareader""".split(),
        NO_NETWORK,
    ),
    **dict.fromkeys(
        """openai anthropic litellm groq cohere mistralai ollama langchain langchain_core langchain_community
        langchain_openai llama_index llama_cpp dspy instructor transformers sentence_transformers vllm
        google""".split(),
        ASK_A_MODEL,
    ),
    **dict.fromkeys(
        "_posixsubprocess _multiprocessing pexpect ptyprocess plumbum docker psutil fcntl resource grp pwd".split(),
        NO_PROCESSES,
    ),
    **dict.fromkeys(
        "_tkinter tkinter turtle turtledemo idlelib curses _curses termios readline pyautogui pygame".split(), NO_SCREEN
    ),
    **dict.fromkeys("pip ensurepip venv virtualenv conda setuptools pkg_resources".split(), NO_INSTALLING),
    **dict.fromkeys("ctypes _ctypes cffi _cffi_backend numba cupy".split(), NO_LIBRARIES),
    **dict.fromkeys("matplotlib seaborn plotly bokeh altair IPython ipywidgets".split(), NO_SCREEN),
    "numpy": _use("`statistics`, `math`, `array` and comprehensions"),
    "scipy": _use("`statistics` and `math`"),
    "sklearn": _use("`statistics`, `math` and `collections`"),
    "torch": _use("`statistics` and `math`"),
    "tensorflow": _use("`statistics` and `math`"),
    "pandas": _use("`csv`, `sqlite3`, `collections` and `statistics`"),
    "polars": _use("`csv`, `sqlite3`, `collections` and `statistics`"),
    "pyarrow": _use("`csv` and `sqlite3`"),
    "duckdb": _use("`sqlite3`"),
    "sqlalchemy": _use("`sqlite3`"),
    "yaml": _use("`json`, or `re` for a few lines of YAML"),
    "toml": _use("`tomllib`"),
    "bs4": _use("`html.parser` or `re`"),
    "lxml": _use("`xml.etree.ElementTree` or `html.parser`"),
    "html5lib": _use("`html.parser`"),
    "regex": _use("`re`"),
    "dateutil": _use("`datetime` and `zoneinfo`"),
    "pytz": _use("`zoneinfo`"),
    "pendulum": _use("`datetime` and `zoneinfo`"),
    "arrow": _use("`datetime` and `zoneinfo`"),
    "tqdm": _use("a plain loop"),
    "tabulate": _use("f-strings"),
    "rich": _use("print"),
    "openpyxl": _use("`zipfile` and `xml.etree.ElementTree`: .xlsx is XML in a zip file"),
    "docx": _use("`zipfile` and `xml.etree.ElementTree`: .docx is XML in a zip file"),
    "orjson": _use("`json`"),
    "ujson": _use("`json`"),
    "simplejson": _use("`json`"),
    "rapidfuzz": _use("`difflib`"),
    "fuzzywuzzy": _use("`difflib`"),
    "thefuzz": _use("`difflib`"),
    "Levenshtein": _use("`difflib`"),
    "tiktoken": _use("len(text) // 4 for a rough count of tokens"),
    "nltk": _use("`re`, or llm_query where text has to be understood"),
    "spacy": _use("`re`, or llm_query where text has to be understood"),
    "networkx": _use("dicts, `heapq` and `graphlib`"),
    "sympy": _use("`fractions`, `decimal` and `math`"),
    "PIL": "there are no pictures here",
    "cv2": "there are no pictures here",
    "attr": _use("`dataclasses`"),
    "pydantic": _use("`dataclasses`"),
    "more_itertools": _use("`itertools`"),
    "joblib": _use("`concurrent.futures`"),
    "ray": _use("`concurrent.futures`"),
    "dask": _use("`concurrent.futures`"),
    "zstandard": _use("`compression.zstd`"),
}


class _Finder:
    """The last one asked for a module, when nobody else has it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        sentence = _MODULES.get(name)
        # An import statement is told; importlib.util.find_spec has None for an answer.
        if sentence is not None and sys._getframe(2).f_code.co_name == "_find_and_load_unlocked":
            raise ModuleNotFoundError(f"No module named {name!r}: {sentence}", name=name)
        return None


def _refuse(command=None, *args, **kwargs):
    raise OSError(errno.ENOTSUP, NO_PROCESSES)


_PROCESS_NAMES = frozenset(
    """execl execle execlp execlpe execv execve execvp execvpe fork forkpty spawnl spawnle spawnlp spawnlpe spawnv
    spawnve spawnvp spawnvpe posix_spawn posix_spawnp startfile wait wait3 wait4 waitid waitpid killpg""".split()
)


def _os_getattr(name):
    if name in _PROCESS_NAMES:
        raise AttributeError(f"module 'os' has no attribute {name!r}: {NO_PROCESSES}", name=name, obj=os)
    raise AttributeError(f"module 'os' has no attribute {name!r}", name=name, obj=os)


# A session's own input, which is empty. Who puts another in its place can answer a debugger.
stdin = None


def install():
    global stdin
    stdin = sys.stdin
    sys.meta_path.append(_Finder)
    os.system = os.popen = _refuse
    os.__getattr__ = _os_getattr
    if os.cpu_count() is None:
        os.cpu_count = os.process_cpu_count = lambda: 1
    builtins.help = _sitebuiltins._Helper()
