"What every test starts from."
import other_machine, pytest, torch

if other_machine.wanted(): other_machine.start()

def pytest_configure(config): config.addinivalue_line('markers', 'this_machine(why): not on the pretended other machine; see other_machine.reasons')

def pytest_collection_modifyitems(items):
    "Notebooks first, since they take longest; on the other machine without what cannot hold there"
    items.sort(key=lambda item: item.path.stem not in ('test_elsewhere','test_other_model','test_browser'))
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

@pytest.fixture(autouse=True)
def same_parts(request):
    "Put back the parts of the embedded model that a test has replaced"
    sd = request.getfixturevalue('sd') if 'sd' in request.fixturenames else None
    before = dict(getattr(sd, '__dict__', {}))
    yield
    for name in set(getattr(sd, '__dict__', {}))-set(before): delattr(sd, name)
    for name,part in before.items(): setattr(sd, name, part)

@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    "Model folders by name; copy one before changing it"
    from models import tiny_folders
    return tiny_folders(tmp_path_factory.mktemp)
