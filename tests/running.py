"Run a notebook as a reader does: from top to bottom, in a folder of its own."
import os, shutil, subprocess, sys, tempfile, time
from contextlib import contextmanager
from importlib_metadata import PackageNotFoundError, packages_distributions, requires  # The standard one of Python 3.10 misses packages that do not name their modules
from pathlib import Path
from zipfile import ZipFile
import nbformat, other_machine, warm
from filelock import FileLock
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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

def with_dependencies(names):
    "These distributions and all that they ask for, in turn"
    found,todo = set(),[canonicalize_name(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found: continue
        found.add(name)
        try: wanted = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError: continue
        todo += [canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate(dict(extra=''))]
    return found

def out_of_reach():
    "Modules that are installed here, and would not be with the wheel and a kernel alone"
    from test_packaging import settings
    allowed = with_dependencies([*(Requirement(r).name for r in settings['requirements'].split()), 'ipykernel'])
    return [module for module,owners in packages_distributions().items() if not allowed & {canonicalize_name(o) for o in owners}]

fence = '''import sys
from importlib.machinery import PathFinder

class Fence(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in {names!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Fence
'''

def install(folder):
    "Unpack the package's wheel, and nothing else, in folder/site, with a fence around what else is on this machine"
    from test_packaging import build_wheel
    with ZipFile(build_wheel(folder)) as wheel: wheel.extractall(folder/'site')
    (folder/'site/sitecustomize.py').write_text(fence.format(names={*out_of_reach()} - {'miniai'}))

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
    client = NotebookClient(nb, kernel_name='python3', timeout=1800, resources=dict(metadata=dict(path=str(folder))))
    if command: client.create_kernel_manager().kernel_spec.argv = command # The client's own, so it ends the kernel
    client.execute(env=settings(**env))
    assert [o.text for c in nb.cells if c.cell_type=='code' for o in c.outputs if o.get('name')=='stderr'] == []
    assert [p.name for p in folder.iterdir() if not p.name.startswith('.')] == []
    return nb
