"The judges are judged: on composed pictures, on pictures that are wrong, and against other programs."
import numpy as np, pytest, torch
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from miniai.emoji import *
from miniai.evaluation import *
from miniai.pipeline import StableDiffusion

def seed(i): return torch.Generator().manual_seed(i)

@pytest.fixture(scope='module')
def real(): return Pictures()

@pytest.fixture(scope='module')
def judge(): return load_judge()

class Oracle:
    "Knows the things of the rows it's given, and sees each of them in the cell nearest to its true centre"
    def __init__(self, rows, centre): self.rows,self.centre = rows,centre

    def maps(self, x):
        res = torch.full((len(self.rows),nothing,8,8), -20.)
        for row,there,grid in zip(self.rows.tolist(), self.centre, res):
            for thing,(px,py) in zip(row[0:3:2], ((there - .5)/8).round().long().clamp(0, 7).tolist()):
                if thing<nothing: grid[thing,py,px] = 20
        return res

# Against scipy

@pytest.mark.parametrize('i', range(3))
def test_frechet_distance_is_that_of_scipys_square_root(i):
    gen = seed(i)
    a,b = (torch.randn(300, 12, generator=gen)@torch.randn(12, 12, generator=gen) + torch.randn(12, generator=gen) for _ in range(2))
    s,t = (np.cov(o.double().numpy().T) for o in (a,b))
    theirs = ((a.mean(0)-b.mean(0))**2).sum().item() + np.trace(s + t - 2*sqrtm(s@t).real)
    assert frechet_distance(a, b)==pytest.approx(theirs, rel=1e-4)

@pytest.mark.parametrize('right,of', [(0,1), (1,1), (0,500), (500,500), (3,7), (470,500), (1,2000)])
def test_intervals_are_scipys(right, of):
    theirs = binomtest(right, of).proportion_ci(method='wilson')
    assert wilson(right, of, z=1.959964)==pytest.approx((theirs.low, theirs.high), rel=1e-5, abs=1e-9)

# The tools

def test_backgrounds_and_tints_of_composed_pictures(real):
    rows = random_rows(600, seed(0), tints=1., held=None)
    centre = layout(rows, seed(10))[1]
    centre[rows[:,2]==nothing,1] = 1e4
    x = real(rows, seed(10))
    assert (background_color(x)==rows[:,5]).float().mean()>.995
    tinted = rows[:,[1,3]]<own
    assert (thing_colors(x, centre, rows[:,5])==rows[:,[1,3]])[tinted].float().mean()>.99

def test_a_picture_of_nothing_has_no_tint():
    x = palette[[0,5]][:,:,None,None].expand(2,3,64,64)
    assert (thing_colors(x, torch.full((2,2,2), 32.), background_color(x))==own).all()

def test_rows_are_read_off_composed_pictures_by_an_oracle(real):
    "Whatever is wrong here isn't the judge's fault: order, relation, colours, background"
    rows = random_rows(200, seed(1), tints=1., held=None) # `describe` shows the judge 250 at a time
    seen = describe(Oracle(rows, layout(rows, seed(2))[1]), real(rows, seed(2)), rows[:,2]<nothing)
    assert (seen==rows).float().mean(0).min()>.98
    assert (seen[:,[0,2,4]]==rows[:,[0,2,4]]).float().mean()>.99

@pytest.mark.parametrize('first,second,axis,order_', [((10,30),(50,34),0,[0,1]), ((50,30),(10,20),0,[1,0]), ((30,8),(34,50),1,[0,1]), ((30,50),(35,9),1,[1,0])])
def test_order_of_two_places(first, second, axis, order_):
    got,which = order(torch.tensor([[first, second]], dtype=torch.float))
    assert got.item()==axis and which[0].tolist()==order_

def test_the_judge_on_composed_pictures_and_on_none(real, judge):
    one,two = (random_rows(400, seed(3), pairs=p, held=None) for p in (0.,1.))
    assert (judge(real(one, seed(4))).argmax(1)==one[:,0]).float().mean()>.95
    both = judge(real(two, seed(4))).topk(2).indices.sort(1).values
    assert (both==two[:,[0,2]].sort(1).values).all(1).float().mean()>.9
    assert (judge(torch.rand(200,3,64,64)).argmax(1)==one[:200,0]).float().mean()<.1

def test_the_judge_sees_things_where_they_are(real, judge):
    rows = random_rows(300, seed(5), pairs=1., held=None)
    off = places(judge.maps(real(rows, seed(6))), rows[:,[0,2]]) - layout(rows, seed(6))[1]
    assert off.norm(dim=2).median()<8

def test_the_judges_weights_are_small(): assert judge_file.stat().st_size<1_500_000

# Marks

def test_marks_notice_what_is_wrong():
    rows = random_rows(300, seed(7), pairs=1., tints=1.)
    change = lambda column,k: rows.index_copy(1, torch.tensor([column]), (rows[:,column:column+1]+1)%k)
    noticed = lambda seen: {name for name,right in marks(rows, seen).items() if not right.any()}
    assert noticed(rows)==set()
    assert noticed(rows[:,[2,3,0,1,4,5]])=={'relation','everything'}
    assert noticed(change(4, 2))=={'relation','everything'}
    assert noticed(change(5, own))=={'background','everything'}
    assert noticed(change(3, own))=={'colors','everything'}
    strangers = (rows[:,[0,2]]+1)%nothing
    far = (strangers[:,:,None]!=rows[:,None,[0,2]]).flatten(1).all(1)
    assert not marks(rows, change(0, nothing))['things'][far].any()

def test_colours_that_are_not_asked_for_may_be_any():
    rows = random_rows(200, seed(8), tints=0.)
    seen = rows.clone()
    seen[:,[1,3]] = torch.randint(own, (200,2), generator=seed(9))
    assert marks(rows, seen)['everything'].all()

# What is asked for

@pytest.mark.parametrize('kind', kinds)
def test_rows_are_trained_or_held_out_and_set_aside(kind):
    as_set = lambda rows: set(map(tuple, rows.tolist()))
    trained,held,aside = some_rows(kind, 300),some_rows(kind, 300, held=True),some_rows(kind, 100, choosing=True)
    assert len(trained)==len(held)==300 and not held_out(trained).any() and held_out(held).all() and not held_out(aside).any()
    assert not as_set(trained) & as_set(aside)
    two,tinted = kinds[kind]
    for rows in trained,held,aside:
        assert ((rows[:,2]<nothing)==bool(two)).all() and ((rows[:,1]<own)==bool(tinted)).all() and ((rows[:,3]<own)==bool(two*tinted)).all()
        counts = rows.unique(dim=0, return_counts=True)[1]
        assert counts.max()-counts.min()<=1

def test_what_is_held_out_is_what_is_tested():
    "Not the background, where a tint or a pair is asked for"
    for kind in 'tinted','two','both':
        rows = some_rows(kind, 300, held=True)
        for thing in 0,2:
            alone = torch.stack([rows[:,thing], 0*rows[:,0]+own, 0*rows[:,0]+nothing, 0*rows[:,0]+own, 0*rows[:,0], rows[:,5]], 1)
            assert not held_out(alone).any()

def test_prompts_say_everything():
    for row in torch.cat([some_rows(kind, 25, held=True) for kind in kinds]).tolist():
        text = prompt(row, 3)
        named = lambda w: any(o in text for o in (w, synonyms.get(w, w)))
        assert named(colors[row[5]]) and all(named(things[t]) for t in row[0:3:2] if t<nothing)
        assert all(named(colors[c]) for c in row[1:4:2] if c<own) and (' and ' not in text)

def test_rivals_differ_in_one_number_and_the_true_row_is_first():
    rows = some_rows('both', 20)
    for column,k in (0,nothing),(1,own):
        rivals = others(rows, column, k)
        assert torch.equal(rivals[:,0], rows) and len(rivals[0].unique(dim=0))==k
        assert ((rivals!=rows[:,None]).sum(2)<=1).all()

# All together

def test_composed_pictures_pass_and_wrong_ones_fail(real, judge):
    asked = {kind: some_rows(kind, 40, held=True) for kind in kinds}
    right = measure(judge, lambda rows: real(rows, seed(1)), asked, real)
    wrong = measure(judge, lambda rows: real(rows.roll(1, 0), seed(1)), asked, real)
    for name in questions:
        a,b = right['counts'][name],wrong['counts'][name]
        assert a[0]>.8*a[1] and (b[1]<30 or b[0]<.5*b[1]), name
    soft = measure(judge, lambda rows: torch.nn.functional.avg_pool2d(real(rows, seed(1)), 5, 1, 2), asked, real)
    assert soft['frechet']>2*right['frechet']

def test_a_model_that_repeats_itself_is_less_diverse(real, judge):
    rows = some_rows('one', 10).repeat_interleave(6, 0)
    x = real(rows, seed(1))
    few = x.view(10,6,3,64,64)[:,:2].repeat(1,3,1,1,1).flatten(0,1)
    assert diversity(judge.features(few).view(10,6,-1))<.9*diversity(judge.features(x).view(10,6,-1))

@pytest.mark.filterwarnings('ignore:this small model', 'ignore:the prompt is longer')
def test_any_model_can_be_measured(folders):
    "One that was trained on something else is hardly ever right, and the table says so"
    from miniai.clip import CLIP
    sd = StableDiffusion.from_pretrained(folders['sd15'])
    result = evaluate(sd, CLIP.from_pretrained(), n=8, guidance=(2.,), num_inference_steps=1)
    text = as_markdown(result)
    assert list(result['columns'])==['composed','through the VAE','drawn, trained','drawn, held out']
    right,of = result['columns']['drawn, held out']['counts']['single object']
    assert right<=2 and of==8
    assert all(text.count(f'| {name} |')==1 for name in questions) and 'Measured in' in text
