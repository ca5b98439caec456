"""What is not here: a sentence, where code looks for it, that says what to do instead.

Whoever only asks whether a module is there (`importlib.util.find_spec`, `except ImportError`) gets the
answer that he would get anywhere.
"""

import builtins
import dis
import errno
import getpass
import importlib
import os
import sys

import _sitebuiltins

NO_NETWORK = "there is no network here: the data is in `context`, and llm_query asks a language model"
NO_PROCESSES = "there are no other processes and no shell here: do it in Python, in this session"
NO_SCREEN = "there is no screen and no keyboard here: print what is to be seen"
NO_INSTALLING = "nothing can be installed here: use Python's standard library, and what else can be imported"
NO_NOTEBOOK = "there are no notebook commands here: leave the line out, or do it in Python"
NO_QUESTION = "there are no notebook commands here: help(x) prints what is known of x"
NO_ALARM = "there is no alarm here: compare time.monotonic() in the loop; a cell that takes too long is ended anyway"
NO_PIPES = "there are no pipes here: use queue.Queue for values, and io.BytesIO or a file in /tmp for bytes"
NO_USERS = "there are no users here: all files are this session's own"
NO_INPUT = "nobody answers here: what there is to know is in `context` and in /inputs"
ONE_PROCESSOR = "there is one processor here"
ONE_ZONE = "the clock here is UTC: use zoneinfo for another time zone"
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
        "_posixsubprocess _multiprocessing pexpect ptyprocess plumbum docker psutil fcntl resource".split(),
        NO_PROCESSES,
    ),
    **dict.fromkeys("grp pwd".split(), NO_USERS),
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


# Of modules that are here, the names that they lack.
_NAMES = {
    "os": {
        **dict.fromkeys(
            """execl execle execlp execlpe execv execve execvp execvpe fork forkpty spawnl spawnle spawnlp spawnlpe
            spawnv spawnve spawnvp spawnvpe posix_spawn posix_spawnp startfile wait wait3 wait4 waitid waitpid kill
            killpg getppid getpgid getpgrp setpgid setpgrp getsid setsid nice getpriority setpriority pidfd_open
            register_at_fork chroot""".split(),
            NO_PROCESSES,
        ),
        **dict.fromkeys("pipe pipe2 mkfifo mknod eventfd".split(), NO_PIPES),
        **dict.fromkeys(
            """getuid geteuid getgid getegid getgroups getgrouplist getresuid getresgid setuid seteuid setgid setegid
            setgroups setreuid setregid setresuid setresgid initgroups getlogin chown fchown lchown umask""".split(),
            NO_USERS,
        ),
        **dict.fromkeys("sched_getaffinity sched_setaffinity getloadavg".split(), ONE_PROCESSOR),
        **dict.fromkeys("get_terminal_size openpty login_tty ttyname ctermid tcgetpgrp tcsetpgrp".split(), NO_SCREEN),
    },
    "signal": {
        **dict.fromkeys(
            """alarm setitimer getitimer ITIMER_REAL ITIMER_VIRTUAL ITIMER_PROF ItimerError siginterrupt""".split(),
            NO_ALARM,
        ),
        **dict.fromkeys(
            """pause sigwait sigwaitinfo sigtimedwait sigpending pthread_kill pthread_sigmask pidfd_send_signal
            SIG_BLOCK SIG_UNBLOCK SIG_SETMASK""".split(),
            NO_PROCESSES,
        ),
    },
    "socket": dict.fromkeys(
        """gethostbyname gethostbyname_ex gethostbyaddr getnameinfo getservbyname getservbyport getprotobyname
        sethostname if_nameindex if_nametoindex if_indextoname send_fds recv_fds AF_UNIX SOCK_RAW""".split(),
        NO_NETWORK,
    ),
    "select": dict.fromkeys("epoll kqueue devpoll".split(), NO_NETWORK),
    "time": {"tzset": ONE_ZONE},
}
# Of modules that most cells do not load, and that ask for this one meanwhile, what they lack without it.
_NEEDED_FOR = "_ssl"
_NEED_IT = {
    "http.client": "HTTPSConnection",
    "urllib.request": "HTTPSHandler",
    "smtplib": "SMTP_SSL",
    "ftplib": "FTP_TLS",
    "imaplib": "IMAP4_SSL",
    "poplib": "POP3_SSL",
}


class _Finder:
    """The last one asked for a module, when nobody else has it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        sentence = _MODULES.get(name)
        # An import statement is told; importlib.util.find_spec has None for an answer.
        if sentence is not None and sys._getframe(2).f_code.co_name == "_find_and_load_unlocked":
            if name == _NEEDED_FOR:
                for needs, lacks in _NEED_IT.items():
                    if needs in sys.modules:
                        _name_what_lacks(sys.modules[needs], {lacks: NO_NETWORK})
            raise ModuleNotFoundError(f"No module named {name!r}: {sentence}", name=name)
        return None


def _refuse(command=None, *args, **kwargs):
    raise OSError(errno.ENOTSUP, NO_PROCESSES)


def _name_what_lacks(module, sentences):
    """Have the module say why it has no such names, to who takes one and to who imports one."""

    def __getattr__(name):
        sentence = sentences.get(name)
        reason = "" if sentence is None else f": {sentence}"
        caller = sys._getframe(1)
        if sentence is not None and caller.f_code.co_code[caller.f_lasti] == _IMPORT_FROM:
            told = f"cannot import name {name!r} from {module.__name__!r}{reason}"
            raise ImportError(told, name=module.__name__, name_from=name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}{reason}", name=name, obj=module)

    module.__getattr__ = __getattr__


_IMPORT_FROM = dis.opmap["IMPORT_FROM"]


def _getuser():
    try:
        return _own_getuser()
    except OSError:
        raise OSError(errno.ENOTSUP, NO_USERS) from None


def _getpass(prompt="Password: ", stream=None, **options):
    raise EOFError(NO_INPUT)


def _input(prompt="", /):
    if sys.stdin is stdin:
        print(prompt, end="")
        raise EOFError(f"EOF when reading a line: {NO_INPUT}")
    return _own_input(prompt)


_own_getuser, _own_input = getpass.getuser, builtins.input
for _function, _name in ((_getuser, "getuser"), (_getpass, "getpass"), (_input, "input")):
    _function.__name__ = _function.__qualname__ = _name


# A session's own input, which is empty. Who puts another in its place can answer a debugger.
stdin = None


def install():
    global stdin
    stdin = sys.stdin
    sys.meta_path.append(_Finder)
    os.system = os.popen = _refuse
    for name, sentences in _NAMES.items():
        _name_what_lacks(importlib.import_module(name), sentences)
    getpass.getuser, getpass.getpass, builtins.input = _getuser, _getpass, _input
    if os.cpu_count() is None:
        os.cpu_count = os.process_cpu_count = lambda: 1
    builtins.help = _sitebuiltins._Helper()
