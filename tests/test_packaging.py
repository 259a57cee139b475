"settings.ini is the one place for metadata: what is built from it, what repeats it, and what it pins."
import re, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from functools import lru_cache
from pathlib import Path
import miniai, pytest, yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

root = Path(__file__).parent.parent
config = ConfigParser()
config.read(root/'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
project = tomllib.loads((root/'pyproject.toml').read_text())
pythons = ['3.10', '3.11', '3.12', '3.13']
workflows = sorted((root/'.github/workflows').glob('*.yml'))

@lru_cache(None)
def tracked(*patterns):
    "The files that git knows"
    if not (root/'.git').exists(): pytest.skip('this is no git clone')
    return subprocess.run(['git', 'ls-files', *patterns], cwd=root, text=True, capture_output=True, check=True).stdout.splitlines()

def copy_package(folder, package='miniai'):
    "What a wheel is built from"
    for name in tracked(package, 'setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE'):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, folder/name)

def setup_py(folder, *args): return subprocess.run([sys.executable, 'setup.py', *args], cwd=folder, text=True, capture_output=True)

def test_one_version():
    assert miniai.__version__ == settings['version']

def test_two_versions_cannot_be_built(tmp_path):
    copy_package(tmp_path, 'miniai/__init__.py')
    assert setup_py(tmp_path, '--version').stdout.strip() == settings['version']
    (tmp_path/'miniai/__init__.py').write_text('__version__ = "9.9.9"\n')
    res = setup_py(tmp_path, '--version')
    assert res.returncode != 0 and settings['version'] in res.stderr and 'Traceback' not in res.stderr

def test_pyproject_repeats_settings():
    nbdev = project['tool']['nbdev']
    assert project['project']['name'] == settings['lib_name']
    shared = nbdev.keys() & settings.keys()
    assert len(shared) > 4
    for k in shared: assert settings[k] == (' '.join(nbdev[k]) if isinstance(nbdev[k], list) else str(nbdev[k])), k

def build_wheel(folder):
    "The wheel, in folder/wheels"
    copy_package(folder/'source')
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--no-index', '-w', folder/'wheels', '.'], cwd=folder/'source', check=True)
    wheel, = (folder/'wheels').glob('*.whl')
    return wheel

def test_the_wheel_holds_all_of_the_package(elsewhere):
    wheel, = (elsewhere.parent/'wheels').glob('*.whl')
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        metadata, entry_points = [z.read(next(n for n in names if n.endswith(f))).decode() for f in ('dist-info/METADATA', 'dist-info/entry_points.txt')]
    assert [name for name in tracked('miniai') if name not in names] == []
    assert any(n.endswith('LICENSE') for n in names)
    for line in f'Name: {settings["lib_name"]}', f'Version: {settings["version"]}', f'Requires-Python: >={settings["min_python"]}', f'Project-URL: Repository, {settings["git_url"]}': assert line in metadata
    assert 'miniai = miniai.own:main' in entry_points and 'miniai = miniai._modidx:d' in entry_points

def test_the_repository_is_small():
    sizes = {name: (root/name).stat().st_size for name in tracked() if (root/name).exists()}
    assert sum(sizes.values()) < 60e6 and max(sizes.values()) < 12e6

def test_the_weights_are_small_and_of_one_world():
    weights = {name: (root/name).stat().st_size for name in tracked('*.safetensors')}
    assert 1e6 < sum(weights.values()) < 45e6
    assert not tracked('miniai/models/fashion', 'miniai/models/judge.safetensors') # The first edition's

def test_home_stands_in_settings_only():
    "And in the notebooks' badges, which tools/notebooks.py writes"
    texts = {name: (root/name).read_text(encoding='utf-8', errors='ignore') for name in tracked()
             if (root/name).exists() and (root/name).stat().st_size < 1_000_000 and not name.endswith('.ipynb')}
    assert [name for name, text in texts.items() if settings['user'] in text] == ['settings.ini']

@pytest.mark.parametrize('python', pythons)
def test_every_requirement_is_pinned_once(python):
    lines = [Requirement(line) for line in (root/'constraints.txt').read_text().splitlines() if line and not line.startswith('#')]
    pins = [r for r in lines if r.marker is None or r.marker.evaluate(dict(python_version=python))]
    assert len({canonicalize_name(r.name) for r in pins}) == len(pins)
    versions = {canonicalize_name(r.name): str(r.specifier).removeprefix('==') for r in pins}
    for requirement in map(Requirement, (settings['requirements'] + ' ' + settings['dev_requirements']).split()):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement

def test_workflows_cover_every_python():
    matrix = yaml.safe_load((root/'.github/workflows/test.yml').read_text())['jobs']['test']['strategy']['matrix']
    assert matrix['python'] == pythons and any('macos' in job['os'] for job in matrix['include'])

@pytest.mark.parametrize('path', workflows, ids=[p.stem for p in workflows])
def test_workflows_may_little_and_use_fixed_versions(path):
    text = path.read_text()
    assert yaml.safe_load(text)['permissions'] == {'contents': 'read'}
    uses = re.findall(r'uses: (.*)', text)
    assert uses and [u for u in uses if not re.fullmatch(r'[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+', u)] == []
