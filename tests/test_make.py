"`make run`: any prompt arrives as it was typed, nothing is installed twice, and what usually goes wrong ends in one sentence."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
record_arguments = f'#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open("arguments", "w"))\n'

def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path

@pytest.fixture
def project(tmp_path):
    "The project as it comes from git: nothing is installed"
    for name in ('Makefile', 'settings.ini', 'setup.py', 'pyproject.toml', 'constraints.txt', 'README.md'): shutil.copy(root/name, tmp_path/name)
    for name in ('tools', 'miniai'): shutil.copytree(root/name, tmp_path/name, ignore=shutil.ignore_patterns('models', 'data', '__pycache__'))
    return tmp_path

@pytest.fixture
def installed(project):
    "The project after `make run`, with a command that records what it was given"
    script(project/'.venv/bin/miniai', record_arguments)
    (project/'.venv/.run').touch()
    return project

def make(folder, *args, **env):
    env = {**{k: v for k, v in os.environ.items() if not k.startswith('MAKE')}, **env}
    return subprocess.run(['make', *args], cwd=folder, env=env, text=True, capture_output=True)

def sentence(res):
    "The one sentence a failed run ends in"
    text = res.stdout + res.stderr
    assert res.returncode != 0 and 'Traceback' not in text, text
    found = re.findall(r'^miniai: (.+)\.$', text, re.M)
    assert len(found) == 1, text
    return found[0]

prompts = ['a red cat', "it's a cat", 'a "red" cat', '$HOME', '$(touch pwned)', '`touch pwned`', '; touch pwned', '$$', '$5 cat', '${PATH} $(PYTHON)',
    'a # b', '100% red', 'a\\b', '--help', '-n', '*', '~', 'a=b', '  two  spaces ', 'été ☂', '!', "a'\"b", '']

@pytest.mark.parametrize('prompt', prompts)
def test_a_prompt_arrives_as_typed(installed, prompt):
    for res in make(installed, 'run', f'PROMPT={prompt}'), make(installed, 'run', PROMPT=prompt):
        assert res.returncode == 0, res.stderr
        *_, dashes, arrived = json.loads((installed/'arguments').read_text())
        assert (dashes, arrived.strip()) == ('--', prompt.strip())
        assert 'make lab' in res.stdout and not (installed/'pwned').exists()

def test_the_picture_goes_where_it_is_told(installed):
    assert make(installed, 'run', 'OUT=my $5 pictures/cat.png').returncode == 0
    arguments = json.loads((installed/'arguments').read_text())
    assert 'my $5 pictures/cat.png' in arguments and (installed/'my $5 pictures').is_dir()

def test_a_second_run_installs_nothing(installed):
    assert make(installed, 'run', 'PYTHON=no-such-python').returncode == 0

def test_a_changed_requirement_installs_again(installed):
    os.utime(installed/'settings.ini', (2e9, 2e9))
    assert 'no-such-python' in sentence(make(installed, 'run', 'PYTHON=no-such-python'))

def test_no_python(project):
    assert 'install Python 3.10 or newer' in sentence(make(project, 'run', 'PYTHON=no-such-python'))

def changed_python(project, change):
    "A Python that is as this one, but for `change`"
    return script(project/'python', f'''#!/bin/sh
exec "{sys.executable}" -c 'import runpy, sys; {change}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")' "$@"\n''')

def test_a_python_that_is_too_old(project):
    said = sentence(make(project, 'run', f'PYTHON={changed_python(project, "sys.version_info = (3, 8, 18)")}'))
    assert 'Python 3.10 or newer' in said and '3.8' in said and 'PYTHON=' in said

def test_a_python_without_venv(project):
    said = sentence(make(project, 'run', f'PYTHON={changed_python(project, "sys.modules.update(ensurepip=None)")}'))
    assert 'apt install python' in said

def test_no_network(project):
    "A real environment and a real pip, and an index at which nobody answers"
    env = dict(PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_EXTRA_INDEX_URL='', PIP_FIND_LINKS='', PIP_CONFIG_FILE=os.devnull, PIP_RETRIES='1', PIP_NO_INDEX='')
    said = sentence(make(project, 'run', f'PYTHON={sys.executable}', **env))
    assert 'could not be reached' in said and 'run the command again' in said
    assert not (project/'.venv/.run').exists()

@pytest.mark.parametrize('words, expected', [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device', 'the disk is full'),
    ('ERROR: Something nobody foresaw', 'its last words are: ERROR: Something nobody foresaw')])
def test_pip_fails(project, words, expected):
    script(project/'.venv/bin/python', f'#!/bin/sh\n[ "$3" = --version ] && exit 0\necho "{words}" >&2\nexit 1\n')
    res = make(project, 'run', f'PYTHON={sys.executable}')
    assert expected in sentence(res) and words in res.stdout
    assert not (project/'.venv/.run').exists()

def test_help_names_every_command():
    commands = re.findall(r'^([a-z0-9-]+) ', make(root, 'help').stdout, re.M)
    phony, = re.findall(r'^\.PHONY: (.*)', (root/'Makefile').read_text(), re.M)
    assert {*commands, 'quarto'} == set(phony.split())

def test_ci_runs_make_test_and_nothing_else(tmp_path):
    script(tmp_path/'make', record_arguments)
    subprocess.run([root/'.ci/run'], cwd=tmp_path, env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}, check=True)
    assert json.loads((tmp_path/'arguments').read_text())[-1] == 'test'
