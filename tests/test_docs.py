"""The documentation, as far as it can be seen without Quarto: nbdev processes every notebook, as it does before it calls Quarto, and what comes out is read.

nbdev 2 builds the site (it reads settings.ini); nbdev 3, with which the tests run, is given the same settings here."""
import ast, inspect, json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path
from urllib.parse import unquote
import nbformat, pytest, yaml
from IPython.core.inputtransformer2 import TransformerManager
from running import built_once
from test_packaging import tracked

root = Path(__file__).parent.parent
nbs = root/'nbs'
paths = sorted(nbs.glob('*.ipynb'))
config = ConfigParser()
config.read(root/'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
address = settings['doc_host'] + settings['doc_baseurl'] + '/'
quarto = yaml.safe_load((nbs/'_quarto.yml').read_text())
sidebar = yaml.safe_load((nbs/'sidebar.yml').read_text())['website']['sidebar']['contents']
sections = {'Start': ['index', 0], '1. A picture, by hand': [1], '2. The five parts, opened': range(2,9), '3. Your hand in the run': range(9,11),
            '4. The model': range(11,14), '5. Three papers': range(14,18), '6. From the foundations': range(18,25), 'More': ['questions', 'history']}
before_quarto = "import nbdev.quarto as q; q._ensure_quarto = lambda: None; q._pre_docs(n_workers=0)"

def page(path): return re.sub(r'^\d+_', '', Path(path).stem) + '.html'
def markdown(nb): return [c.source for c in nb.cells if c.cell_type=='markdown']
def code(nb): return [c for c in nb.cells if c.cell_type=='code']
def shown(cell): return ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in cell.outputs)
def is_entry(cell): return cell.source.split('\n')[-1].startswith('show_doc(')
def directives(cell): return set(re.findall(r'^#\|\s*(\w+)', cell.source, re.M))
def body(source): return re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
def exports(nb):
    "The module that a notebook writes"
    name = re.search(r'^#\| default_exp (\w+)', '\n'.join(c.source for c in code(nb)), re.M)
    return name and import_module(f'miniai.{name[1]}')
def no_code(text): return re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)

def nbdev3_settings():
    "What nbdev 3 would read, were the metadata in pyproject.toml"
    q = json.dumps
    keys = 'lib_path nbs_path doc_path title branch renderer skip_procs'.split()
    return '\n'.join(['[project]', f'name = {q(settings["lib_name"])}', f'description = {q(settings["description"])}', '[project.urls]', f'Repository = {q(settings["git_url"])}',
        f'Documentation = {q(address)}', '[tool.nbdev]', 'custom_sidebar = true', f'strip_libs = {q(settings["lib_path"])}', *(f'{k} = {q(settings[k])}' for k in keys)])

def process(folder):
    "Let nbdev process the notebooks in `folder`, as it does before it calls Quarto"
    for name in 'settings.ini', 'README.md': shutil.copy(root/name, folder)
    for name in 'nbs', 'tools': shutil.copytree(root/name, folder/name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    (folder/'miniai').mkdir()
    for path in (root/'miniai').iterdir():
        if path.suffix=='.py': shutil.copy(path, folder/'miniai')
        elif path.is_dir() and path.name!='__pycache__': (folder/'miniai'/path.name).symlink_to(path)
    if metadata.version('nbdev') >= '3': (folder/'pyproject.toml').write_text(nbdev3_settings())
    env = {**os.environ, 'PYTHONPATH': str(folder), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg', 'XDG_CONFIG_HOME': str(folder), 'HF_HUB_OFFLINE': '1'}
    res = subprocess.run([sys.executable, '-c', before_quarto], cwd=folder, env=env, text=True, capture_output=True)
    if res.returncode: pytest.fail('nbdev could not process the notebooks:\n' + res.stderr.rpartition('Exception: ')[2][-1500:], pytrace=False)

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder that Quarto would be given"
    return built_once(tmp_path_factory, 'docs', process)/'_proc'

@lru_cache(None)
def read(path): return nbformat.read(path, as_version=4)

@pytest.fixture(scope='session')
def pages(site): return {p.name: read(site/p.name) for p in paths}

@pytest.fixture(params=paths, ids=[p.stem for p in paths])
def path(request): return request.param
@pytest.fixture
def source(path, site): return read(site.parent/'nbs'/path.name)
@pytest.fixture
def nb(path, pages): return pages[path.name]
@pytest.fixture
def module(source): return exports(source) or pytest.skip('it exports nothing')

# Settings

def test_quarto_has_search_two_themes_and_files_that_exist(site):
    html, web = quarto['format']['html'], quarto['website']
    assert set(html['theme']) == {'light', 'dark'} and html['toc'] is True and html['respect-user-color-scheme'] is True
    assert web['navbar']['search'] is True and web['search']['location'] == 'navbar'
    for name in html['css'], web['image'], *quarto['filters']: assert (nbs/name).is_file() and (site/name).is_file()
    assert quarto['metadata-files'] == ['nbdev.yml', 'sidebar.yml'] and all((site/name).is_file() for name in quarto['metadata-files'])

def test_the_site_has_the_title_and_address_of_settings(site):
    web = yaml.safe_load((site/'nbdev.yml').read_text())['website']
    assert (web['title'], web['site-url'], web['repo-url'], web['description']) == (settings['title'], address.rstrip('/'), settings['git_url'], settings['description'])

def test_the_sidebar_names_every_notebook_once_in_order_in_its_section(site):
    named = {s['section']: s['contents'] for s in sidebar}
    expected = {name: [p.name for i in numbers for p in paths if p.stem==i or p.stem.startswith(f'{i:02}_' if isinstance(i, int) else '?')] for name,numbers in sections.items()}
    assert named == expected and list(named) == list(expected)
    assert sorted(sum(named.values(), [])) == [p.name for p in paths]
    assert (site/'sidebar.yml').read_text() == (nbs/'sidebar.yml').read_text()

def test_the_parts_are_those_of_the_home_page(pages):
    part, parts = '', {}
    for name,link in re.findall(r'^\| *([\w ,.]*?) *\| \[\w+\]\((\w+\.ipynb)\)', '\n'.join(markdown(pages['index.ipynb'])), re.M):
        part = name or part
        parts.setdefault(part, []).append(link)
    numbered = {s['section']: [n for n in s['contents'] if n[0].isdigit()] for s in sidebar}
    assert parts == {section: names for section,names in numbered.items() if names}

def test_make_docs_without_quarto_says_so(tmp_path):
    "Before anything is installed"
    (tmp_path/'bin').mkdir()
    for tool in 'sh', 'make', 'touch', 'cp', 'mkdir': (tmp_path/'bin'/tool).symlink_to(shutil.which(tool))
    shutil.copy(root/'Makefile', tmp_path)
    for name in 'settings.ini', 'setup.py', 'pyproject.toml', 'constraints.txt': (tmp_path/name).touch()
    res = subprocess.run(['make', 'docs'], cwd=tmp_path, env={'PATH': str(tmp_path/'bin')}, text=True, capture_output=True)
    assert res.returncode and re.findall(r'^miniai: (.+)\.$', res.stderr, re.M) and 'quarto.org' in res.stderr, res.stderr
    assert not (tmp_path/'.venv-nbdev2').exists()

def test_the_workflow_builds_what_make_builds():
    build = yaml.safe_load((root/'.github/workflows/docs.yml').read_text())['jobs']['build']['steps']
    assert any(step.get('run', '').startswith('make docs') for step in build)
    assert any('quarto-actions/setup' in step.get('uses', '') for step in build)
    assert [step['with']['path'] for step in build if 'upload-pages-artifact' in step.get('uses', '')] == [settings['doc_path']]

# What a reader finds on a page

def test_it_has_a_title_a_description_and_an_address(path, source, nb):
    front, = [c.source for c in nb.cells if c.cell_type=='raw']
    front = yaml.safe_load(front.strip().strip('-'))
    title, description = re.match(r'# (.+)\n+> (.+)', source.cells[0].source).groups()
    assert front == {'title': title, 'description': description, 'output-file': page(path)}

def test_a_cell_that_imports_does_nothing_else(path):
    "nbdev runs every cell with an import in it, and those alone: what else it does would run without the cells before it"
    found = []
    for cell in code(read(path)):
        if 'eval: false' in cell.source or 'import' not in cell.source: continue
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        imports = any(isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.walk(tree))
        if imports and any(isinstance(o, (ast.Expr, ast.Assign)) for o in tree.body) and 'export' not in directives(cell): found.append(cell.source)
    assert found == []

def test_nothing_is_hidden_but_what_says_so(source, nb):
    there = {c.id: body(c.source) for c in nb.cells}
    for cell in code(source):
        hidden = 'hide' in directives(cell) or not body(cell.source)
        assert not there.get(cell.id) if hidden else there.get(cell.id)==body(cell.source), cell.source

def test_what_is_hidden_shows_nothing_and_defines_nothing_exported(source):
    hidden = [c for c in code(source) if 'hide' in directives(c)]
    assert [c.source for c in hidden if c.outputs or 'export' in directives(c)] == []
    assert len(hidden) < 4

def test_solutions_are_folded(source, nb):
    for cell in code(source):
        if 'code-summary' not in cell.source: continue
        assert re.match(r'#\| code-fold: true\n#\| code-summary: "[A-Z][^"]+"\n', cell.source), cell.source
        assert any(c.source.startswith('#| code-fold: true') and body(c.source)==body(cell.source) for c in code(nb))

# The reference

def entries(nb): return {re.search(r'show_doc\((.+)\)', c.source)[1]: shown(c) for c in code(nb) if is_entry(c)}
def escaped(text): return re.sub(r'(`[^`]*`)|\|', lambda m: m[1] or r'\|', ' '.join(text.split()))

def test_every_exported_name_is_documented(module, nb):
    "A function or class has an entry; a constant stands in a cell that is shown"
    documented = entries(nb)
    cells = '\n'.join(body(c.source) for c in code(nb))
    missing = [n for n in module.__all__ if n not in documented and not (not isinstance(getattr(module, n), type) and re.search(rf'^(\w+, ?)*{n}(, ?\w+)* *=', cells, re.M))]
    assert missing == []

def docmented(module, name):
    "The parameters of what `name` means in `module`, and what its source says of them"
    from fastcore.docments import docments
    obj = module
    for part in name.split('.'): obj = getattr(obj, part)
    known = docments(getattr(obj, 'fget', obj), full=True)
    return {p: v.docment or '' for p,v in known.items() if p not in ('self', 'cls', 'return') and (v.docment or p not in ('args', 'kwargs'))}

def test_every_entry_has_a_heading_and_a_table_of_all_parameters(module, nb):
    wrong = []
    for name,text in entries(nb).items():
        text = re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', text)
        text = re.sub(r'(?<!^\| )<code>(\w+)</code>', r'`\1`', text, flags=re.M)
        rows = [rf'\| <code>{p}</code> \| .*\| {re.escape(escaped(about))} \|' for p,about in docmented(module, name).items()]
        wrong += [(name, line) for line in (rf'### {re.escape(name)}', *rows) if not re.search(rf'^{line}$', text, re.M)]
    assert wrong == []

def test_every_exported_function_and_class_says_in_a_line_what_it_is(module, nb):
    assert [name for name,text in entries(nb).items() if name in module.__all__ and not re.search(r'^\*[^*\n].*\*$', text, re.M)] == []

def test_every_row_of_a_table_has_four_cells(nb):
    for text in entries(nb).values():
        assert [row for row in text.splitlines() if row.startswith('|') and len(re.findall(r'(?<!\\)\|', no_code(row))) != 5] == []

# Links

def anchors(nb):
    "The names that pandoc gives to the headings of a page"
    seen, res = {}, set()
    texts = markdown(nb) + [shown(c) for c in code(nb)]
    for heading in re.findall(r'^#{1,6} +(.+?) *$', re.sub(r'^```.*?^```', '', '\n\n'.join(texts), flags=re.S|re.M), re.M):
        heading = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
        name = re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', heading.lower()))) or 'section'
        seen[name] = seen.get(name, -1) + 1
        res.add(f'{name}-{seen[name]}' if seen[name] else name)
    return res

def references(nb): return [(m[1], m[2]) for text in markdown(nb) + [shown(c) for c in code(nb)] for m in re.finditer(rf'\[`([^`]+)`\]\({re.escape(address)}([^)]*)\)', text)]

def test_names_of_the_package_become_links_that_lead_somewhere(nb, pages):
    known = {page(name): anchors(other) for name,other in pages.items()}
    broken = [(name, to) for name,to in references(nb) if to.partition('#')[2] not in known.get(to.partition('#')[0], ())]
    assert broken == []

def test_there_are_many_such_links(pages): assert sum(len(set(references(nb))) for nb in pages.values()) > 100

def test_a_link_means_what_its_page_means(path, source, nb):
    "A name that is a parameter or method here, or a single letter, is not meant for another page's function"
    module = exports(source)
    here = [getattr(module, n) for n in module.__all__] if module else []
    classes = [o for o in here if inspect.isclass(o)]
    functions = [o for o in here if inspect.isfunction(o)] + [f for c in classes for f in vars(c).values() if inspect.isfunction(f)]
    own = {n for c in classes for n in vars(c)} | {p for f in functions for p in inspect.signature(f).parameters}
    assert sorted({(name, to) for name,to in references(nb) if not to.startswith(page(path)) and (name in own or len(name)<2)}) == []

def local_links(text): return [unquote(to.split('#')[0]) for to in re.findall(r'\]\(([^)\s]+)\)|<img[^>]* src="([^"]+)"', no_code(text)) for to in to if to and not re.match(r'\w+:|#', to)]

def test_relative_links_of_a_notebook_lead_to_files_of_the_repository(path, source, site):
    for to in local_links('\n'.join(markdown(source))):
        if to.startswith('attachment:'): continue
        assert os.path.normpath(f'nbs/{to}') in tracked(), to
        assert (site/to).is_file(), f'{to} is not on the site'

def headings(nb): return [h.replace('`', '') for h in re.findall(r'^#+ (.+)$', '\n'.join(markdown(nb)), re.M)]

def test_anchors_are_headings(path, source):
    "JupyterLab's within a notebook, the site's (see anchors.lua) from one page to another"
    site_form = lambda heading: re.sub(r'[^\w\-. ]', '', heading.lower()).replace(' ', '-')
    for file,anchor in re.findall(r'\]\(([\w.]*)#([^)\s]+)\)', no_code('\n'.join(markdown(source)))):
        there = headings(nbformat.read(path.parent/file, as_version=4) if file else source)
        inside = not file and path.stem[0].isdigit()
        assert anchor in [h.replace(' ', '-') if inside else site_form(h) for h in there], (file, anchor)

documents = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', *(str(p.relative_to(root)) for p in sorted((root/'miniai/models').glob('*/README.md')))]

@pytest.mark.parametrize('name', documents)
def test_relative_links_of_a_document_lead_to_files_of_the_repository(name):
    files = tracked()
    for to in local_links((root/name).read_text()): assert os.path.normpath(Path(name).parent/to) in files, to

def pictures(text): return re.findall(r'!\[([^]]*)\]\(([^)\s]+)[^)]*\)', text) + [(re.search(r' alt="([^"]*)"', tag)[1] if ' alt=' in tag else '', tag) for tag in re.findall(r'<img[^>]*>', text)]

def says_nothing(alt, file):
    "Is this alternative text empty, a file name, or a word such as `image`?"
    return len(alt.split()) < 3 or re.search(r'\.(png|jpe?g|webp|gif|svg)$', alt, re.I) or alt.strip().lower()==Path(file).stem.lower()

@pytest.mark.parametrize('name', documents)
def test_pictures_of_a_document_are_described(name):
    assert [file for alt,file in pictures(no_code((root/name).read_text())) if says_nothing(alt, file)] == []

def test_pictures_of_a_notebook_are_described(source):
    html = [''.join(o.data['text/html']) for c in code(source) for o in c.outputs if 'text/html' in o.get('data', {})]
    assert [file[:99] for text in [no_code('\n'.join(markdown(source))), *html] for alt,file in pictures(text) if says_nothing(alt, file)] == []
