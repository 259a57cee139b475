"Every notebook runs alone in an empty folder, on the package installed from a wheel and what it depends on, with no checkout in sight; and no answer breaks its exercises."
import subprocess, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
import nbformat, pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running import built_once, new_cell, run_notebook
from test_packaging import copy_package, settings

notebooks = sorted((Path(__file__).parent.parent/'nbs').glob('[0-9]*.ipynb'))

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
    "Install the package, and nothing else, in folder/site, with a fence around what else is on this machine"
    copy_package(folder/'source')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--no-index', '--target', folder/'site', '.'], cwd=folder/'source', check=True)
    (folder/'site/sitecustomize.py').write_text(fence.format(names={*out_of_reach()} - {'miniai'}))

@pytest.fixture(scope='module')
def site(tmp_path_factory): return built_once(tmp_path_factory, 'elsewhere', install)/'site'

def test_the_fence_stands(site):
    run = lambda module: subprocess.run([sys.executable, '-c', f'import {module}; print({module}.__file__)'], cwd=site, env=dict(PYTHONPATH=str(site)), text=True, capture_output=True)
    assert str(site) in run('miniai').stdout and run('torch').returncode==0
    for module in 'sklearn','nbdev','jupyterlab': assert 'ModuleNotFoundError' in run(module).stderr

wrong_answers = '''for name,check in [(k,v) for k,v in globals().items() if k.startswith('check_') and hasattr(v, '__wrapped__')]:
    for answer in None, 3, '', [], lambda *args,**kwargs: None:
        assert check(answer).startswith('not yet: '), (name, answer)'''

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_it_runs_elsewhere_and_no_answer_breaks_it(path, site, tmp_path):
    nb = nbformat.read(path, as_version=4)
    nb.cells = [new_cell(f'import miniai; assert miniai.__file__.startswith({str(site)!r}), miniai.__file__'), *nb.cells, new_cell(wrong_answers)]
    run_notebook(nb, tmp_path, PYTHONPATH=str(site))
