"The small world: pictures hold what their rows say, captions don't lie, and nothing that's held out reaches training."
import random
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from miniai import emoji
from miniai.emoji import *

def a_row(first=None, color=None, second=None, color2=None, axis=0, background='white'):
    thing = lambda name: things.index(name) if name else nothing
    return [thing(first), colors.index(color) if color else own, thing(second), colors.index(color2) if color2 else own, axis, colors.index(background)]

@st.composite
def rows_of_any_kind(draw):
    "Rows that `random_rows` could draw, and those it keeps back"
    pick = lambda *names: draw(st.sampled_from(names))
    a,b = draw(st.lists(st.integers(0, nothing-1), min_size=2, max_size=2, unique=True))
    background = draw(st.integers(0, own-1))
    color = lambda: draw(st.integers(0, own).filter(lambda c: c!=background))
    if pick(True, False): return [a, color(), b, color(), pick(0, 1), background]
    return [a, color(), nothing, own, 0, background]

@pytest.fixture(scope='module')
def pictures(): return Pictures()

def test_every_style_that_is_trained_on_has_every_thing(pictures):
    assert pictures.sprites.shape==(3,120,4,64,64) and pictures.sprites[:,:,3].flatten(2).amax(2).min()>.9
    fourth = load_sprites('fxemoji')[:,3].flatten(1).amax(1)
    assert set(fourth.gt(.5).tolist())=={True,False} and fourth.gt(.5).sum()>=60

@pytest.mark.parametrize('samples', [1,2,3])
def test_pytorch_places_layers_in_the_same_way(samples):
    "With a grid of points to read; layers are placed half outside, too"
    rng = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(20, *shape, generator=rng)
    layers,size,centre,mirrored = rand(4, 64, 64),20 + 60*rand(),64*rand(2),rand()<.5
    theta = torch.zeros(20, 2, 3)
    theta[:,0,0],theta[:,1,1] = 64/size*torch.where(mirrored, -1., 1.),64/size
    theta[:,:,2] = -theta[:,[0,1],[0,1]]*(centre/32 - 1) # Its coordinates go from -1 to 1
    grid = F.affine_grid(theta, (20,1,64*samples,64*samples), align_corners=False)
    want = F.avg_pool2d(F.grid_sample(layers, grid, align_corners=False), samples)
    assert torch.allclose(place(layers, size, centre, mirrored, samples), want, atol=2e-5) # Its coordinates have a resolution of about 4e-6 pixels

def test_the_licences_come_with_the_drawings():
    text = (emoji.data/'LICENSE').read_text(encoding='utf-8')
    for name in 'noto.png', 'fluent.png', 'twemoji.png', 'fxemoji.png': assert name in text and (emoji.data/name).is_file()

@settings(max_examples=300, deadline=None)
@given(rows_of_any_kind(), st.integers(0, 2**62))
def test_a_caption_says_only_what_is_there(row, seed):
    text,said = caption(row, random.Random(seed))
    assert fits(torch.tensor([row]), torch.tensor([said])).item()
    words = {w for w in text.replace(',', ' ').split()}
    named = lambda w: bool(words & {*w.split(), *synonyms.get(w, w).split()})
    for column,names in (1, colors), (3, colors), (5, colors):
        if 0<=said[column]<own: assert named(colors[row[column]])
    for column in 0, 2:
        if 0<=said[column]<nothing: assert named(things[row[column]])

@pytest.mark.parametrize('axis,words', [(0, ('left','right')), (1, ('above','over','top','below','under','beneath'))])
def test_a_relation_is_told_from_either_side(axis, words):
    row = a_row('cat', second='dog', axis=axis)
    texts = {caption(row, random.Random(seed))[0] for seed in range(200)}
    told = [o for o in (t.replace(',', '').split() for t in texts) if set(o) & set(words)]
    forward = lambda t: bool({'left','above','over','top'} & set(t))
    assert all(forward(t)==(t.index('cat')<t.index('dog')) for t in told)
    assert {forward(t) for t in told}=={True,False}

def test_captions_that_swap_or_recolour_do_not_fit():
    row = torch.tensor([a_row('cat', 'red', 'dog', 'blue')])
    others = torch.tensor([a_row('dog', 'blue', 'cat', 'red'), a_row('cat', 'blue', 'dog', 'red'), a_row('cat', 'red', 'dog', 'blue', axis=1), a_row('cat', 'red')])
    assert fits(row, row).all() and not fits(row, others).any() and not fits(others, row).any()

@pytest.mark.parametrize('seed', range(5))
def test_nothing_held_out_is_drawn_for_training(seed):
    rows = random_rows(5000, torch.Generator().manual_seed(seed))
    assert not held_out(rows).any() and torch.equal(rows, random_rows(5000, torch.Generator().manual_seed(seed)))
    a,color_a,b,color_b,_,background = rows.unbind(1)
    assert (a!=b).all() and (color_a!=background).all() and (color_b!=background).all() and (color_b[b==nothing]==own).all()

@pytest.mark.parametrize('kind', ['tint','background','pair'])
def test_one_combination_in_eight_is_held_out(kind):
    t,k,axis = torch.cartesian_prod(torch.arange(nothing), torch.arange(nothing if kind=='pair' else own), torch.arange(2)).T
    behind = lambda thing,background: (5*thing + 3*background)%8==3
    none = 0*t
    if kind=='background': rows = torch.stack([t, none+own, none+nothing, none+own, none, k], 1)
    else:
        background = torch.tensor([next(b for b in range(own) if not behind(i,b) and (kind=='tint' or not behind(j,b))) for i,j in zip(t.tolist(), k.tolist())])
        rows = torch.stack([t, k if kind=='tint' else none+own, none+nothing if kind=='tint' else k, none+own, axis if kind=='pair' else none, background], 1)
    assert abs(held_out(rows).float().mean()-1/8)<.01

@pytest.mark.this_machine('bits')
def test_the_same_generator_gives_the_same_pictures_and_another_does_not(pictures):
    rows = random_rows(16, torch.Generator().manual_seed(0))
    draw = lambda seed: pictures(rows, torch.Generator().manual_seed(seed))
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))

def test_things_are_where_the_row_says(pictures):
    "Tinted things on white: the centre of what is red is on the side that the row names"
    rows = torch.tensor([a_row('heart', 'red', 'heart', 'blue', axis=axis) for axis in (0,1)]).repeat(50, 1)
    rows[:,2] = things.index('star')
    x = pictures(rows, torch.Generator().manual_seed(3))
    red = ((x[:,0]>.4) & (x[:,2]<.3)).float()
    middle = lambda weights,dim: (weights.sum(3-dim)*torch.arange(64)).sum(1)/weights.sum((1,2))
    assert (middle(red, 2)[::2]<32).all() and (middle(red, 1)[1::2]<32).all()

def test_a_picture_of_one_thing_is_background_and_thing(pictures):
    rows = torch.tensor([a_row('heart', 'green', background='pink')]).repeat(20, 1)
    x = pictures(rows, torch.Generator().manual_seed(0)).movedim(1, -1).reshape(-1, 3)
    near = (torch.cdist(x, palette)<.02).any(1).float().mean()
    assert near>.4 and x.min()>=0 and x.max()<=1
