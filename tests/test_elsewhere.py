"Every notebook runs alone in an empty folder, with the package installed from a wheel and no checkout in sight."
import subprocess, sys
from pathlib import Path
import nbformat, pytest
from nbclient import NotebookClient
from test_packaging import copy_package

notebooks = sorted((Path(__file__).parent.parent/'nbs').glob('[0-9]*.ipynb'))

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "A folder with nothing but the installed package"
    folder,site = (tmp_path_factory.mktemp(name) for name in ('source','site'))
    copy_package(folder)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--no-index', '--target', site, '.'], cwd=folder, check=True)
    return site

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_it_runs_elsewhere(path, site, tmp_path, monkeypatch):
    for name,value in dict(PYTHONPATH=site, HF_HUB_OFFLINE=1, OMP_NUM_THREADS=1, TQDM_DISABLE=1).items(): monkeypatch.setenv(name, str(value))
    monkeypatch.delenv('MPLBACKEND', raising=False)
    nb = nbformat.read(path, as_version=4)
    nb.cells.insert(0, nbformat.v4.new_code_cell('import miniai; miniai.__file__'))
    NotebookClient(nb, timeout=300, kernel_name='python3', resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    assert str(site) in nb.cells[0].outputs[0].data['text/plain']
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith('.')] == []
    assert [o.text for c in nb.cells if c.cell_type=='code' for o in c.outputs if o.get('name')=='stderr' and 'warn' in o.text.lower()] == []
