"Run a notebook as a reader does: from top to bottom, in a folder of its own."
import os, shutil, subprocess, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path
import nbformat, other_machine, warm
from filelock import FileLock
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

def built_once(tmp_path_factory, name, build):
    "A folder that `build` fills in the first of pytest's processes that needs it, for all of them"
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/name
    with FileLock(f'{folder}.lock'):
        if not (folder/'built').exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            (folder/'built').touch()
    return folder

def new_cell(source): return nbformat.v4.new_code_cell(source)

def settings(**env):
    "The environment of a kernel"
    return {**{k:v for k,v in os.environ.items() if k!='MPLBACKEND'}, 'HF_HUB_OFFLINE':'1', 'OMP_NUM_THREADS':'1', 'TQDM_DISABLE':'1', **env}

@contextmanager
def warm_kernels(**env):
    "The command of kernels that have imported the libraries, see `warm`; None where a process with threads of the system can't fork"
    if sys.platform!='linux':
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder)/'socket'
        server = subprocess.Popen([sys.executable, warm.__file__, address], env=settings(MPLBACKEND='module://matplotlib_inline.backend_inline', **env))
        while not address.exists():
            assert server.poll() is None, 'the process that imports the libraries has ended'
            time.sleep(.1)
        yield [sys.executable, '-IS', warm.__file__, str(address), '-f', '{connection_file}']
        server.kill()
        server.wait()

def run_notebook(nb, folder, command=None, **env):
    "Run `nb` in `folder`, in a kernel that `command` starts, and expect no error, no warning, and no file left behind"
    if other_machine.wanted(): nb.cells.insert(0, new_cell(f'import runpy; runpy.run_path({other_machine.__file__!r})["start"]()'))
    km = AsyncKernelManager(kernel_name='python3')
    if command: km.kernel_spec.argv = command
    NotebookClient(nb, km, timeout=1800, resources=dict(metadata=dict(path=str(folder)))).execute(env=settings(**env))
    assert [o.text for c in nb.cells if c.cell_type=='code' for o in c.outputs if o.get('name')=='stderr'] == []
    assert [p.name for p in folder.iterdir() if not p.name.startswith('.')] == []
    return nb
