"""What every committed notebook has in common. That its cells run is nbdev's test; that they were run before it was committed is tested here.

A notebook with a number is a lesson; the others are pages of the documentation."""
import ast, re
from functools import lru_cache
from pathlib import Path
import nbformat, pytest
from IPython.core.inputtransformer2 import TransformerManager

paths = sorted((Path(__file__).parent.parent/'nbs').glob('*.ipynb'))
skipped = re.compile(r'^#\|\s*(slow|gpu|net|eval:\s*false)', re.M)
machine_path = re.compile(r'(?<![\w.:/])/(work|root|home|tmp|Users|private|var/folders)/')

@pytest.fixture(params=paths, ids=[p.stem for p in paths])
def path(request): return request.param

@lru_cache(None)
def read(path): return nbformat.read(path, as_version=4)

@pytest.fixture
def nb(path): return read(path)

def is_lesson(path): return path.stem[0].isdigit()
def code_cells(nb): return [c for c in nb.cells if c.cell_type == 'code']

def surely_shows(source):
    "Does this cell end on an expression that can only show something: a name, a number, a comparison, a `print`?"
    body = ast.parse(TransformerManager().transform_cell(source)).body
    if not body or source.rstrip().endswith(';') or not isinstance(body[-1], ast.Expr): return False
    value = body[-1].value
    if isinstance(value, ast.Call): return getattr(value.func, 'id', '') in ('print', 'len', 'list', 'dict', 'type')
    return isinstance(value, (ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.BinOp, ast.Compare, ast.JoinedStr, ast.Subscript))

def test_there_are_notebooks(): assert len(paths) > 5

def test_it_is_valid_and_small(path, nb):
    nbformat.validate(nb)
    assert path.stat().st_size < 3_000_000

def test_it_was_run_from_top_to_bottom(nb):
    cells = [c for c in code_cells(nb) if not skipped.search(c.source) and surely_shows(c.source)]
    assert [c.source for c in cells if not c.outputs] == []
    if code_cells(nb): assert any(c.outputs for c in code_cells(nb))

def test_it_ran_without_errors_and_warnings(nb):
    outputs = [o for c in code_cells(nb) for o in c.outputs]
    assert [o.evalue for o in outputs if o.output_type == 'error'] == []
    assert [o.text for o in outputs if o.get('name') == 'stderr' and 'warn' in o.text.lower()] == []

def test_it_names_no_path_of_the_machine_it_ran_on(nb):
    texts = [c.source for c in nb.cells] + [str({k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')}) + o.get('text', '')
                                           for c in code_cells(nb) for o in c.outputs]
    assert [t for t in texts if machine_path.search(t)] == []

def test_it_opens_with_a_title_and_one_line(nb):
    "nbdev makes the front matter of the first cell, and drops whatever else that cell says"
    text = nb.cells[0].source
    assert re.fullmatch(r'# \S.*\n+> \S.*', text), text

def test_it_closes_with_summary_and_exercises(path, nb):
    if not is_lesson(path): return
    headings = [line for c in nb.cells if c.cell_type == 'markdown' for line in c.source.splitlines() if line.startswith('## ')]
    assert headings[-2:] == ['## Summary', '## Exercises']

def test_its_exercises_answer(path, nb):
    "Three to five; each with an answer cell, a check that takes anything, and a folded solution that passes it"
    if not is_lesson(path): return
    start = next(i for i,c in enumerate(nb.cells) if re.search('^## Exercises$', c.source, re.M))
    texts = '\n'.join(c.source for c in nb.cells[start:] if c.cell_type == 'markdown')
    numbers = re.findall(r'^\*\*(\d)\.', texts.partition('## Exercises')[2], re.M)
    assert numbers == list('12345')[:len(numbers)] and len(numbers) >= 3
    codes = [c.source for c in nb.cells[start:] if c.cell_type == 'code']
    checks = re.findall(r'^@exercise\ndef (check_\w+)\(', '\n'.join(codes), re.M)
    assert len(checks) == sum('# yours here' in code for code in codes) == len(numbers)
    assert sum(code.startswith('#| code-fold: true\n') for code in codes) >= len(numbers)
    assert [name for name in checks if f'test_eq({name}(solution), ' not in '\n'.join(codes).lower()] == []
    said = [o.data['text/plain'] for c in nb.cells[start:] for o in c.get('outputs', []) if c.source.splitlines()[-1].startswith('check_') and 'data' in o]
    assert len(said) == len(numbers) and all(re.match('.not yet: ', text) for text in said)

def test_its_cells_are_small(nb):
    assert [c.source for c in code_cells(nb) if len(c.source.splitlines()) > 25] == []
