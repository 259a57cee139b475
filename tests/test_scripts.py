"What benchmarks and tools import from the package exists; most of them are seldom run."
import ast
from importlib import import_module
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
scripts = sorted(p for folder in ('benchmarks','tools') for p in (root/folder).glob('*.py'))

@pytest.mark.parametrize('path', scripts, ids=[f'{p.parent.name}/{p.name}' for p in scripts])
def test_what_it_imports_from_the_package_exists(path):
    wanted = [(o.module, name.name) for o in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
              if isinstance(o, ast.ImportFrom) and o.module.split('.')[0]=='miniai' for name in o.names if name.name!='*']
    assert [(m, n) for m,n in wanted if not hasattr(import_module(m), n) and not (root/m/f'{n}.py').exists()] == []
