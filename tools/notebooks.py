"""What every notebook has in common: a badge that opens it in Colab, a cell that installs the package where it is missing, and solutions that are folded away,
in JupyterLab and in Colab. settings.ini says from where."""
from configparser import ConfigParser
from pathlib import Path
import nbformat

root = Path(__file__).resolve().parent.parent
config = ConfigParser()
config.read(root/'settings.ini', encoding='utf-8')
s = config['DEFAULT']

def badge(name):
    address = f"https://colab.research.google.com/github/{s['user']}/{s['repo']}/blob/{s['branch']}/{s['nbs_path']}/{name}"
    return f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})'

install = f"""#| hide
#| eval: false
try: import {s['lib_path']}
except ImportError: get_ipython().run_line_magic('pip', 'install -q git+{s['git_url']}')"""

def fold(cell):
    if cell.source.startswith('#| code-fold: true'): cell.metadata.update(cellView='form', jupyter=dict(source_hidden=True))

for path in sorted((root/s['nbs_path']).glob('[0-9]*.ipynb')):
    nb = nbformat.read(path, as_version=4)
    title,opening,*rest = [c for c in nb.cells if c.id not in ('badge','install')]
    nb.cells = [title, nbformat.v4.new_markdown_cell(badge(path.name), id='badge'), opening, nbformat.v4.new_code_cell(install, id='install'), *rest]
    for cell in nb.cells: fold(cell)
    path.write_text(nbformat.writes(nb, indent=1) + '\n', encoding='utf-8')
