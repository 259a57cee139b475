"""`make lab` in a real browser: a notebook is opened, a short one is run through the interface, and a prompt is typed into its explorer.

`make test-browser` brings what this needs. Screenshots go to build/screenshots."""
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import nbformat, pytest

sys.path.append(str(Path(__file__).parent.parent/'tools'))
sync_api = pytest.importorskip('playwright.sync_api')
from browser import find_browser

chromium = find_browser()
if not chromium: pytest.skip('no Chromium or Chrome here; `make test-browser` installs one', allow_module_level=True)

root = Path(__file__).parent.parent
screenshots = root/'build/screenshots'
minutes = 60_000
quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync']
plain_settings = {
    'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False),
    'notebook-extension/tracker': dict(windowingMode='none')}

short = [ # That all of every notebook runs is seen in test_elsewhere
    """from miniai.callbacks import explore
from miniai.core import show_images
from miniai.pipeline import StableDiffusion""",
    """sd = StableDiffusion.from_pretrained()
show_images(sd(['a cat','a dog'], seed=0, num_inference_steps=2))""",
    "explore(sd, num_inference_steps=2)"]

@pytest.fixture(scope='module')
def project(tmp_path_factory):
    "The notebooks and the Makefile with the environment that runs this test, in a folder that may change"
    folder = tmp_path_factory.mktemp('project')
    for name in ('Makefile', 'settings.ini', 'setup.py', 'pyproject.toml', 'constraints.txt'): shutil.copy(root/name, folder/name)
    shutil.copytree(root/'nbs', folder/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    python = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python')) # Else JupyterLab asks for a kernel
    nbformat.write(nbformat.v4.new_notebook(metadata=python, cells=[*map(nbformat.v4.new_code_cell, short)]), folder/'nbs/short.ipynb')
    (folder/'.venv').mkdir()
    (folder/'.venv/bin').symlink_to(Path(sys.executable).parent)
    (folder/'.venv/.dev').touch()
    return folder

@pytest.fixture(scope='module')
def lab(project):
    "The address of a JupyterLab that `make lab` has started"
    config = project/'config'
    for name,values in plain_settings.items():
        file = config/f'lab/user-settings/@jupyterlab/{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    (config/'jupyter_server_config.json').write_text(json.dumps(dict(
        ServerApp=dict(open_browser=False, ip='127.0.0.1', port=0), IdentityProvider=dict(token='lesson10'))))
    env = {**os.environ, 'JUPYTER_CONFIG_DIR': str(config), 'JUPYTER_DATA_DIR': str(project/'data'), 'JUPYTER_RUNTIME_DIR': str(project/'runtime'),
        'PYTHONPATH': str(root), 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    with open(project/'lab.log', 'w') as log:
        server = subprocess.Popen(['make', 'lab'], cwd=project, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield address(server, project)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)

def address(server, project):
    for _ in range(120):
        assert server.poll() is None, (project/'lab.log').read_text()
        for file in (project/'runtime').glob('jpserver-*.json'):
            info = json.loads(file.read_text())
            return f"http://127.0.0.1:{info['port']}/lab/tree/{{}}.ipynb?token={info['token']}&reset"
        time.sleep(.5)
    raise TimeoutError((project/'lab.log').read_text())

@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()

@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=dict(width=1300, height=1000))
    yield page
    page.close()

def open_notebook(page, address, name):
    page.goto(address.format(name))
    page.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=minutes)

def run_all(page, address, name):
    "Open a notebook and run all of its cells through the menu"
    open_notebook(page, address, name)
    page.get_by_text('| Idle').wait_for(timeout=minutes)
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
    page.get_by_text('| Busy').wait_for(timeout=minutes)

def wait_until_done(page, project, name):
    "Wait until no cell is running or waiting, save, and read what was saved"
    page.wait_for_function("![...document.querySelectorAll('.jp-InputPrompt')].some(o => o.textContent.includes('*'))", timeout=5*minutes)
    page.get_by_text('| Idle').wait_for(timeout=minutes)
    page.get_by_role('menuitem', name='File', exact=True).click()
    page.get_by_role('menuitem', name=re.compile('^Save Notebook(?! As)')).first.click()
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')", timeout=minutes)
    return nbformat.read(project/f'nbs/{name}.ipynb', as_version=4)

def take_screenshot(page, name):
    screenshots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=screenshots/f'{name}.png')

def check_saved(nb):
    "Every cell ran, in order; none failed or warned"
    cells = [c for c in nb.cells if c.cell_type=='code' and c.source.strip()]
    assert [c.execution_count for c in cells] == list(range(1, len(cells)+1))
    outputs = [o for c in cells for o in c.outputs]
    assert [o.evalue for o in outputs if o.output_type=='error'] == []
    assert [o.text for o in outputs if o.get('name')=='stderr'] == []

def check_pictures(page, nb):
    "The browser shows every picture that the notebook holds"
    held = sum('image/png' in o.get('data', {}) for c in nb.cells for o in c.get('outputs', []))
    page.wait_for_function("n => document.querySelectorAll('.jp-OutputArea-output img').length >= n", arg=held, timeout=minutes)
    widths = page.locator('.jp-OutputArea-output img').evaluate_all('images => images.map(o => o.naturalWidth)')
    assert held>0 and len(widths)>=held and min(widths)>0

def check_folded(page, nb):
    "Solutions are folded away, and nothing else is"
    assert page.locator('.jp-InputPlaceholder').count() == sum(c.source.startswith('#| code-fold: true') for c in nb.cells) >= 3

def test_a_lesson_opens_with_its_pictures_and_without_its_solutions(lab, project, page):
    open_notebook(page, lab, '01_pipeline')
    nb = nbformat.read(project/'nbs/01_pipeline.ipynb', as_version=4)
    take_screenshot(page, '01_pipeline')
    check_pictures(page, nb)
    check_folded(page, nb)

def test_all_cells_run_and_the_explorer_draws(lab, project, page):
    run_all(page, lab, 'short')
    nb = wait_until_done(page, project, 'short')
    take_screenshot(page, 'short')
    check_saved(nb)
    check_pictures(page, nb)
    check_explorer(page)

def check_explorer(page):
    "A prompt is typed into the explorer, and the picture changes"
    picture,prompt = page.locator('img.miniai-picture').first,page.locator('.miniai-prompt input').first
    prompt.scroll_into_view_if_needed()
    before = picture.get_attribute('src')
    prompt.fill('a yellow star on a black background')
    prompt.press('Enter')
    page.wait_for_function("src => document.querySelector('img.miniai-picture').src != src", arg=before, timeout=minutes)
    page.locator('.miniai-status', has_text='done').first.wait_for(timeout=minutes)
    assert picture.evaluate('image => image.naturalWidth')>0
    take_screenshot(page, 'explorer')
