"Write README.md from nbs/index.ipynb: its text and code, with links that work from the root of the repository."
from pathlib import Path
import re, nbformat

def to_markdown(cell):
    if cell.cell_type == 'markdown': return re.sub(r'\]\((?!\w+:|#)', '](nbs/', cell.source)
    return f'```python\n{cell.source}\n```'

root = Path(__file__).resolve().parent.parent
cells = nbformat.read(root/'nbs/index.ipynb', as_version=4).cells
text = '\n\n'.join(to_markdown(c) for c in cells if not c.source.startswith('#| hide'))
(root/'README.md').write_text('<!-- Written by tools/readme.py from nbs/index.ipynb: edit that. -->\n\n' + text + '\n', encoding='utf-8')
