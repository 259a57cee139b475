"Run a notebook as a reader does: from top to bottom, in a folder of its own."
import os, shutil
import nbformat, other_machine
from filelock import FileLock
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

def run_notebook(nb, folder, **env):
    "Run `nb` in `folder`, and expect no error, no warning, and no file left behind"
    settings = {**{k:v for k,v in os.environ.items() if k!='MPLBACKEND'}, 'HF_HUB_OFFLINE':'1', 'OMP_NUM_THREADS':'1', 'TQDM_DISABLE':'1', **env}
    if other_machine.wanted(): nb.cells.insert(0, new_cell(f'import runpy; runpy.run_path({other_machine.__file__!r})["start"]()'))
    NotebookClient(nb, timeout=1800, kernel_name='python3', resources=dict(metadata=dict(path=str(folder)))).execute(env=settings)
    assert [o.text for c in nb.cells if c.cell_type=='code' for o in c.outputs if o.get('name')=='stderr'] == []
    assert [p.name for p in folder.iterdir() if not p.name.startswith('.')] == []
    return nb
