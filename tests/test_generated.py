"What is written by a program is as that program writes it: badges, exporting, cleaning and making README.md again change nothing."
import shutil, subprocess, sys
from pathlib import Path

root = Path(__file__).parent.parent
kept = ['nbs', 'miniai', 'tools', 'settings.ini', 'pyproject.toml', 'README.md']
steps = '''import runpy
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
runpy.run_path('tools/notebooks.py', run_name='__main__')
nbdev_export()
nbdev_clean()
runpy.run_path('tools/readme.py', run_name='__main__')'''

def contents(folder):
    "Every file's text; of the index, the symbols only, since its other half repeats nbdev's own configuration"
    res = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file() and '__pycache__' not in p.parts}
    res['miniai/_modidx.py'] = res['miniai/_modidx.py'].partition(b"'syms'")[2]
    return res

def test_badges_export_clean_and_readme_change_nothing(tmp_path):
    for name in kept:
        ignore = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'models', 'data')
        if (root/name).is_dir(): shutil.copytree(root/name, tmp_path/name, ignore=ignore)
        else: shutil.copy(root/name, tmp_path/name)
    before = contents(tmp_path)
    subprocess.run([sys.executable, '-c', steps], cwd=tmp_path, check=True)
    after = contents(tmp_path)
    assert [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)] == []
