"What every test starts from."
import os
from itertools import islice
import other_machine, pytest, torch

if other_machine.wanted(): other_machine.start()

def pytest_configure(config): config.addinivalue_line('markers', 'this_machine(why): not on the pretended other machine; see other_machine.reasons')

@pytest.hookimpl(trylast=True) # After what -m leaves out
def pytest_collection_modifyitems(items):
    """What takes longest first; on the other machine without what cannot hold there

    Each of pytest's processes is given one stretch of the tests, and later takes what's left at the end of another's. So each stretch begins with its share of what takes long."""
    processes = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    slow = [item for item in items if item.path.stem in ('test_device','test_elsewhere','test_other_model','test_browser')]
    quick = iter([item for item in items if item not in slow])
    shares = [slow[i::processes] for i in range(processes)]
    items[:] = [item for share in shares for item in (*share, *islice(quick, max(0, len(items)//processes - len(share))))] + list(quick)
    if other_machine.wanted(): other_machine.skip_what_cannot_hold(items)

@pytest.fixture(autouse=True)
def exact_small_numbers():
    "Trainings round the smallest numbers to zero, for speed; tests that draw random numbers need them"
    torch.set_flush_denormal(False)

@pytest.fixture(scope='session')
def sd():
    "The embedded model, loaded once; what a test assigns to it is undone after the test"
    from miniai.core import embedded_model # Imported late: device_checks changes miniai.core first
    from miniai.pipeline import StableDiffusion
    return StableDiffusion.from_pretrained(embedded_model(), device='cpu')

@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    "Model folders by name; copy one before changing it"
    from models import tiny_folders
    return tiny_folders(tmp_path_factory.mktemp)

@pytest.fixture(scope='session')
def tiny(folders):
    "Stable Diffusion 1.5's architecture, tiny and with random weights, and DDIM: for what any network shows, ten times as fast"
    from diffusers import DDIMScheduler
    from miniai.pipeline import StableDiffusion
    sd = StableDiffusion.from_pretrained(folders['sd15'], device='cpu')
    sd.scheduler = DDIMScheduler.from_config(sd.scheduler.config)
    return sd

@pytest.fixture(scope='session')
def libraries(folders):
    "The library's pipeline for each folder; copy one before changing it"
    from diffusers import StableDiffusionPipeline
    found = {name: StableDiffusionPipeline.from_pretrained(folder, safety_checker=None) for name,folder in folders.items()}
    for library in found.values(): library.set_progress_bar_config(disable=True)
    return found

@pytest.fixture(autouse=True)
def same_parts(request):
    "Put back the parts of a shared model that a test has replaced"
    models = [vars(request.getfixturevalue(name)) for name in ('sd','tiny') if name in request.fixturenames]
    before = [dict(parts) for parts in models]
    yield
    for parts,old in zip(models, before):
        parts.clear()
        parts.update(old)

@pytest.fixture(scope='session')
def photos():
    "Real pictures of the emoji world, of combinations that no part of the embedded model was trained on"
    from miniai.core import to_image
    from miniai.emoji import Pictures, random_rows
    rows = random_rows(24, torch.Generator().manual_seed(0), held=True)
    return [to_image(x) for x in Pictures(['noto'])(rows, torch.Generator().manual_seed(0))]

@pytest.fixture(scope='session')
def elsewhere(tmp_path_factory):
    "A folder with the package installed from a wheel, and a fence around what else is on this machine"
    import running
    return running.built_once(tmp_path_factory, 'elsewhere', running.install)/'site'

@pytest.fixture(scope='session')
def warm(elsewhere):
    "The command of a kernel on that package, which has imported the libraries"
    import running
    with running.warm_kernels(PYTHONPATH=str(elsewhere)) as command: yield command
