"Every notebook runs alone in an empty folder, on the package installed from a wheel and what it depends on, with no checkout in sight; and no answer breaks its exercises."
import subprocess, sys
from pathlib import Path
import nbformat, pytest
from running import new_cell, run_notebook

notebooks = sorted((Path(__file__).parent.parent/'nbs').glob('[0-9]*.ipynb'))

where_modules_are = '''from importlib.util import find_spec
for name in "miniai","torch","sklearn","nbdev","jupyterlab": print(find_spec(name) and find_spec(name).origin)'''

def test_the_fence_stands(elsewhere):
    said = subprocess.run([sys.executable, '-c', where_modules_are], cwd=elsewhere, env=dict(PYTHONPATH=str(elsewhere)), text=True, capture_output=True, check=True).stdout
    miniai,torch,*others = said.split()
    assert miniai.startswith(str(elsewhere)) and torch!='None' and others==['None']*3

wrong_answers = '''for name,check in [(k,v) for k,v in globals().items() if k.startswith('check_') and hasattr(v, '__wrapped__')]:
    for answer in None, 3, '', [], lambda *args,**kwargs: None:
        assert check(answer).startswith('not yet: '), (name, answer)'''

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_it_runs_elsewhere_and_no_answer_breaks_it(path, elsewhere, warm, tmp_path):
    nb = nbformat.read(path, as_version=4)
    nb.cells = [new_cell(f'import miniai; assert miniai.__file__.startswith({str(elsewhere)!r}), miniai.__file__'), *nb.cells, new_cell(wrong_answers)]
    fresh = path.stem=='24_from_scratch' # It shows that it hasn't loaded the libraries
    run_notebook(nb, tmp_path, None if fresh else warm, PYTHONPATH=str(elsewhere))
