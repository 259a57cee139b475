"""Install this project into a private environment: `python tools/install.py .venv constraints.txt [extra]`.

Every way this usually fails ends in one sentence that says what to do. It is written so that even an old Python can read it and say so."""
from __future__ import print_function
import os, subprocess, sys

CAUSES = [
    (('No space left on device', 'Disk quota exceeded'),
     'the disk is full; free some space (2 GB are enough, several more where PyTorch comes with CUDA) and run the command again.'),
    (('connection broken by', 'Connection refused', 'Connection reset', 'Max retries exceeded', 'Read timed out', 'Network is unreachable',
      'name resolution', 'Name or service not known', 'nodename nor servname', 'ProxyError', 'ConnectTimeout', 'Connection aborted'),
     'the package index could not be reached; check the network (and the proxy) and run the command again.'),
]

def stop(sentence): sys.exit('miniai: ' + sentence)

def check_python():
    version = '.'.join(str(o) for o in sys.version_info[:2])
    if sys.version_info < (3, 10):
        stop('Python 3.10 or newer is needed and {} is {}; name another, as in `make run PYTHON=python3.12`.'.format(sys.executable, version))
    try: import venv, ensurepip
    except ImportError:
        stop('this Python cannot make environments; install its venv module (on Debian and Ubuntu: `sudo apt install python{}-venv`).'.format(version))

def run(*cmd):
    "Run `cmd`, showing what it prints; if it fails, say why in a sentence"
    said, shown = [], True
    proc = subprocess.Popen(cmd, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, universal_newlines=True)
    for line in proc.stdout:
        said.append(line)
        shown = shown and 'Traceback' not in line
        if shown and 'already satisfied' not in line: print(line, end='', flush=True)
    if proc.wait() == 0: return
    for signs, sentence in CAUSES:
        if any(sign in line for sign in signs for line in said): stop(sentence)
    stop('`{}` failed; its last words are: {}.'.format(' '.join(cmd), said[-1].strip().rstrip('.') if said else 'none'))

def works(python): return os.path.exists(python) and subprocess.call([python, '-m', 'pip', '--version'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0

def main(venv, constraints, extra=''):
    check_python()
    python = os.path.join(venv, 'bin', 'python')
    if not works(python):
        run(sys.executable, '-m', 'venv', '--clear', '--without-pip', venv)
        run(python, '-m', 'ensurepip', '--default-pip')
    # Without compiling: Python compiles a module when it's first imported, and most never are
    run(python, '-m', 'pip', 'install', '--no-compile', '--disable-pip-version-check', '-c', constraints, '-e', '.[{}]'.format(extra) if extra else '.')

if __name__ == '__main__':
    try: main(*sys.argv[1:])
    except KeyboardInterrupt: stop('interrupted; run the command again to go on.')
    except OSError as e: stop('{}.'.format(e))
