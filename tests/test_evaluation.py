"The judges are judged: on real pictures, on pictures that are wrong, and against other programs."
import numpy as np, pytest, torch
from scipy.linalg import sqrtm
from miniai.evaluation import *
from miniai.fashion import *

@pytest.fixture(scope='module')
def real(): return Pictures(*load_fashion_mnist('test', path='sample', quiet=True))

@pytest.mark.parametrize('seed', range(3))
def test_frechet_distance_is_that_of_scipys_square_root(seed):
    gen = torch.Generator().manual_seed(seed)
    a,b = (torch.randn(300, 12, generator=gen)@torch.randn(12, 12, generator=gen) + torch.randn(12, generator=gen) for _ in range(2))
    s,t = (np.cov(o.double().numpy().T) for o in (a,b))
    theirs = ((a.mean(0)-b.mean(0))**2).sum().item() + np.trace(s + t - 2*sqrtm(s@t).real)
    assert frechet_distance(a, b)==pytest.approx(theirs, rel=1e-4)

def test_colors_of_real_pictures(real):
    rows = combinations()
    x = real(rows, torch.Generator().manual_seed(5))
    assert (background_color(x)==rows[:,2]).all()
    assert (garment_color(x)==rows[:,1]).float().mean()>=0.99

def test_judge_on_real_pictures_and_on_none(real):
    rows,judge = combinations(),load_judge()
    x = real(rows, torch.Generator().manual_seed(6))
    assert (judge(x).argmax(1)==rows[:,0]).float().mean()>0.8
    assert (judge(torch.rand(580,3,64,64)).argmax(1)==rows[:,0]).float().mean()<0.2

def test_scores_notice_what_is_wrong(real):
    rows,judge = combinations(),load_judge()
    features = judge.features(real(rows, torch.Generator().manual_seed(7)))
    x = real(rows, torch.Generator().manual_seed(8))
    right = score(x, rows, judge, features)
    other = lambda col,n: rows.index_put((torch.arange(580), torch.tensor(col)), (rows[:,col]+1)%n)
    assert score(x, other(0,10), judge, features)['garment']<0.15
    assert score(x, other(1,8), judge, features)['color']<0.05
    assert score(x, other(2,8), judge, features)['background']<0.05
    assert score(torch.nn.functional.avg_pool2d(x, 5, 1, 2), rows, judge, features)['frechet']>1.5*right['frechet']

def test_held_out_and_seen_are_scored_apart():
    assert not set(map(tuple, some_combinations(True).tolist())) & set(map(tuple, some_combinations(False).tolist()))
    counts = some_combinations(True, 504).unique(dim=0, return_counts=True)[1]
    assert len(some_combinations(True, 504))==504 and counts.max()-counts.min()<=1
