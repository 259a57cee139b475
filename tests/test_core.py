"What `miniai.core` promises beyond its notebook"
import itertools, linecache, os, subprocess, sys
from pathlib import Path

import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from diffusers.utils import logging as diffusers_bars
from huggingface_hub import utils as hub
from hypothesis import given, settings, strategies as st
from PIL import Image
from transformers.utils import logging as bars

from miniai.core import *


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close('all')


@given(st.integers(1,9), st.integers(1,9), st.sampled_from([None,1,3,4]), st.integers(0,2**32-1))
@settings(max_examples=60, deadline=None)
def test_all_forms_of_a_picture_are_one(h, w, c, seed):
    channels_first = np.random.default_rng(seed).integers(0, 256, (h,w) if c is None else (c,h,w)).astype(np.uint8)
    channels_last = channels_first if c is None else channels_first.transpose(1,2,0)
    expected = channels_last[...,0] if c==1 else channels_last
    tensor = torch.tensor(channels_first)
    for form in tensor, tensor/255, (tensor/255).double(), channels_last, channels_last/255, to_image(tensor):
        assert np.array_equal(np.asarray(to_image(form)), expected)


def test_floats_outside_the_range_are_clipped():
    assert np.asarray(to_image(torch.tensor([[-1.,.5,2.,float('nan')]]))).tolist() == [[0,128,255,0]]


def test_gradients_and_half_precision_do_not_matter():
    assert to_image(torch.rand(3,4,4, requires_grad=True)).size == (4,4)
    assert to_image(torch.rand(3,4,4).half()).size == (4,4)


@pytest.mark.parametrize('shape', [(2,8,8), (5,8,8), (1,3,8,8), (8,)])
def test_other_shapes_are_named(shape):
    with pytest.raises(ValueError, match=str(shape[-1])): to_image(torch.rand(*shape))


def test_no_pictures_and_titles_too_few_are_refused():
    with pytest.raises(ValueError, match='no pictures'): show_images([])
    with pytest.raises(ValueError, match='no pictures'): show_strip([])
    with pytest.raises(ValueError, match='shorter'): show_strip(torch.rand(10,8,8), 'abc')


def shown(): return [ax for ax in plt.gcf().axes if ax.images]


def test_a_grid_shows_every_picture_with_its_title():
    show_images(torch.rand(5,3,8,8), range(5), ncols=3)
    assert [ax.get_title() for ax in shown()] == ['0','1','2','3','4']


def test_a_strip_holds_first_and_last():
    show_strip([torch.full((8,8), i/20) for i in range(21)], range(21), n=5)
    assert [ax.get_title() for ax in shown()] == ['0','5','10','15','20']
    assert shown()[-1].images[0].get_array().max() == 255


def test_a_heat_map_writes_its_numbers():
    show_heatmap([[.5,1],[0,.25]], ['a','b'], ['c','d'])
    assert [t.get_text() for t in shown()[0].texts] == ['0.50','1.00','0.00','0.25']
    with pytest.raises(ValueError, match='table'): show_heatmap([1,2])


def test_a_sheet_keeps_every_picture_in_place():
    ims = [Image.new('RGB', (4,6), (i,0,0)) for i in range(5)]
    sheet = image_grid(ims, ncols=3, gap=1)
    assert sheet.size == (3*4+2, 2*6+1)
    assert [sheet.getpixel((i%3*5, i//3*7))[0] for i in range(5)] == list(range(5))
    assert np.array_equal(np.asarray(image_grid(ims[:1])), np.asarray(ims[0]))


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    out = save_image(Image.new('RGB', (4,4), 'red'), tmp_path/'a.png')
    before = out.read_bytes()
    def half_a_file(self, path, *args, **kwargs):
        Path(path).write_bytes(before[:20])
        raise OSError('no space left')
    monkeypatch.setattr(Image.Image, 'save', half_a_file)
    with pytest.raises(OSError, match='no space'): save_image(Image.new('RGB', (4,4), 'blue'), out)
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_half_blocks_hold_the_colours():
    assert half_blocks(Image.fromarray(np.uint8([[[1,2,3]],[[4,5,6]]]))) == '\x1b[38;2;1;2;3m\x1b[48;2;4;5;6m▀\x1b[0m'
    assert len(half_blocks(Image.new('RGB', (400,200)), 40).splitlines()) == 10


def test_progress_is_silent_when_nobody_watches(capfd):
    assert list(progress_bar(range(3))) == [0,1,2]
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('on', [*itertools.product([False,True], repeat=3)])
def test_loading_quietly_changes_no_bar_for_good_and_none_of_a_download(on):
    state = lambda: (bars.is_progress_bar_enabled(), diffusers_bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled())
    def switch(ours, theirs, downloads):
        for library,value in (bars,ours),(diffusers_bars,theirs): (library.enable_progress_bar if value else library.disable_progress_bar)()
        (hub.enable_progress_bars if downloads else hub.disable_progress_bars)()
    before = state()
    try:
        switch(*on)
        with quiet(): assert state() == (False,False,on[2])
        assert state() == on
    finally: switch(*before)


def test_warnings_that_somebody_asked_for_stay():
    run = lambda **env: subprocess.run([sys.executable, '-c', "import transformers, miniai.core; print(transformers.logging.get_verbosity())"],
        env={k:v for k,v in os.environ.items() if not k.endswith('_VERBOSITY')} | env, text=True, capture_output=True, check=True).stdout.strip()
    assert (run(), run(TRANSFORMERS_VERBOSITY='info')) == ('40','20')


def test_each_picture_has_its_generator():
    seeded = lambda: [torch.Generator().manual_seed(i) for i in range(2)]
    assert torch.equal(draw_noise((2,4,8,8), tuple(seeded())), draw_noise((2,4,8,8), seeded()))
    with pytest.raises(ValueError, match='2 generators for 1'): draw_noise((1,4,8,8), seeded())


def test_precision_follows_the_device():
    assert default_dtype('cuda') == default_dtype(torch.device('cuda:0')) == torch.float16
    assert default_dtype('cpu') == default_dtype('mps') == torch.float32
    assert torch.zeros(1, device=default_device()).item() == 0


def notebook(*cells):
    "The names that cells define, each of them in a file of its own, as in a notebook"
    names = dict(exercise=exercise)
    for i,cell in enumerate(cells):
        file = f'<cell {i}>'
        linecache.cache[file] = len(cell),None,cell.splitlines(True),file
        exec(compile(cell, file, 'exec'), names)
    return names


def test_an_exercise_shows_the_readers_line_that_fails():
    check = "@exercise\ndef check(f): return 'right' if f([1,2,3])==6 else 'not yet: wrong'"
    helper = "def total(items, n):\n    result = 0\n    for i in range(n):\n        result += items[i] # here\n    return result"
    names = notebook(check, helper, "import json\ndef f(items): return total(items, 4)\ndef g(items): return json.loads(items)")
    assert names['check'](names['f']) == "not yet: line 4 of your cell, `result += items[i] # here`, ends in IndexError: list index out of range"
    said = names['check'](names['g'])
    assert 'line 3 of your cell, `def g(items): return json.loads(items)`' in said and 'TypeError' in said
    assert names['check'](5).startswith('not yet: with this answer the check ends in TypeError')
    assert names['check'](sum) == 'right'


def test_the_embedded_model_is_found_from_anywhere(tmp_path, monkeypatch):
    before = embedded_model()
    monkeypatch.chdir(tmp_path)
    assert embedded_model()==before and (before/'model_index.json').is_file() and before.is_absolute()


@pytest.mark.parametrize('name', ['no such model', '..', '../models/emoji', '/'])
def test_an_unknown_model_is_named_with_those_there_are(name):
    with pytest.raises(FileNotFoundError, match='emoji'): embedded_model(name)

def test_sixteen_bits_become_eight_and_unclear_whole_numbers_are_refused():
    assert np.asarray(to_image(np.array([[0,257,65535]], np.uint16))).tolist() == [[0,1,255]]
    assert np.asarray(to_image(torch.tensor([[0,1]]))).tolist() == [[0,255]]
    with pytest.raises(ValueError, match='up to 255, of type int64'): to_image(torch.tensor([[0,255]]))

def test_heat_maps_need_no_labels():
    for labels in (None,None), (['a'],None), (None,['b','c']): show_heatmap([[0,1]], *labels)
    plt.close('all')
