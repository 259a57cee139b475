"The data: where it is looked for, and what happens to bad files."
import gzip,hashlib,shutil,struct,threading
from functools import partial
from http.server import SimpleHTTPRequestHandler,ThreadingHTTPServer
import pytest, torch
from miniai import fashion
from miniai.fashion import *

@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "A machine without the full set."
    monkeypatch.delenv('MINIAI_DATA', raising=False)
    monkeypatch.setattr(fashion, '_debian', tmp_path/'debian')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    return tmp_path

@pytest.fixture
def home(nowhere, monkeypatch):
    "A public home on this machine, which serves the bundled sample."
    folder = nowhere/'home'
    shutil.copytree(sample_dir(), folder)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *a: None
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(fashion, '_home', f'http://127.0.0.1:{server.server_port}/')
    monkeypatch.setattr(fashion, '_md5', {f.name:hashlib.md5(f.read_bytes()).hexdigest() for f in folder.glob('*.gz')})
    yield folder
    server.shutdown()

def test_sample_is_the_last_resort(nowhere, capsys):
    images,labels = load_fashion_mnist('test')
    assert images.shape==(1000,28,28) and images.dtype==torch.uint8 and labels.bincount().tolist()==[100]*10
    assert 'sample' in capsys.readouterr().out

def test_a_copy_of_the_sample_is_not_called_the_full_set(tmp_path, capsys):
    shutil.copytree(sample_dir(), tmp_path/'copy')
    load_fashion_mnist('test', path=tmp_path/'copy')
    assert 'full' not in capsys.readouterr().out

def test_sample_is_part_of_the_full_set():
    if not idx_files(fashion._debian, 'test'): pytest.skip('needs the full set')
    whole,_ = load_fashion_mnist('test', path=fashion._debian, quiet=True)
    rows = {bytes(o.flatten().tolist()) for o in whole}
    assert all(bytes(o.flatten().tolist()) in rows for o in load_fashion_mnist('test', path='sample', quiet=True)[0])

def test_folder_from_the_environment(nowhere, monkeypatch):
    folder = nowhere/'mine'
    folder.mkdir()
    for f in sample_dir().glob('train*.gz'): (folder/f.stem).write_bytes(gzip.decompress(f.read_bytes()))
    monkeypatch.setenv('MINIAI_DATA', str(folder))
    assert len(load_fashion_mnist('train', quiet=True)[0])==1500
    with pytest.raises(FileNotFoundError, match='has no test files'): load_fashion_mnist('test')

def test_download_is_checked_and_kept(home, nowhere):
    images,_ = load_fashion_mnist('train', download=True, quiet=True)
    assert len(images)==1500
    shutil.rmtree(home)
    assert len(load_fashion_mnist('train', quiet=True)[0])==1500 and len(list(cache_dir().glob('*.gz')))==4

def test_damaged_download_leaves_no_cache(home, nowhere):
    file = home/'train-images-idx3-ubyte.gz'
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match='hash'): load_fashion_mnist('train', download=True)
    assert not (cache_dir()/file.name).exists()
    assert len(load_fashion_mnist('train', quiet=True)[0])==1500

def test_no_network(nowhere, monkeypatch):
    monkeypatch.setattr(fashion, '_home', 'http://127.0.0.1:9/')
    with pytest.raises(OSError, match='127.0.0.1'): load_fashion_mnist('train', download=True)
    assert len(load_fashion_mnist('train', quiet=True)[0])==1500

@pytest.mark.parametrize('raw', [b'hello', b'', b'\0\0\x08\x03\0\0', b'\0\0\x08\x01\0\0\0\x05abcd', b'\x1f\x8bxx'])
def test_a_damaged_file_is_not_data(tmp_path, raw):
    (tmp_path/'bad').write_bytes(raw)
    with pytest.raises((ValueError, RuntimeError, OSError, EOFError, struct.error)): read_idx(tmp_path/'bad')

def test_labels_that_do_not_belong(tmp_path):
    for f in sample_dir().glob('*.gz'): shutil.copy(f, tmp_path)
    shutil.copy(tmp_path/'train-labels-idx1-ubyte.gz', tmp_path/'t10k-labels-idx1-ubyte.gz')
    with pytest.raises(ValueError, match='1000 images, but 1500 labels'): load_fashion_mnist('test', path=tmp_path)
