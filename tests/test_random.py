"What a notebook cell can't show well about `miniai.random`: parity with Python 2, CPython's own tests, whole distributions, forks."
import copy, json, os, pickle, random, subprocess, sys, unittest

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

import miniai.random as mr
from miniai.random import WichmannHill, period

many = settings(max_examples=200, deadline=None)
states = st.tuples(*(st.integers(1, m-1) for m in (30269,30307,30323)))

def at(state):
    rng = WichmannHill(0)
    rng.setstate((1, state, None))
    return rng

def as_183(state):
    "The algorithm once more, in other words"
    while True:
        state = tuple(a*s % m for s,(a,m) in zip(state, ((171,30269),(172,30307),(170,30323))))
        yield (state[0]/30269.0 + state[1]/30307.0 + state[2]/30323.0) % 1.0

# ------------------------------------------------------------------ the algorithm

def test_check_values():
    rng = WichmannHill(457428938475)
    assert rng.getstate()==(1, (4976,20238,499), None)
    assert [rng.random() for _ in range(4)]==[0.7645251082582081, 0.7920889799553945, 0.06912886811267205, 0.9559050644103264]

# seed: state and numbers 1, 2, 1000 of random.WichmannHill, jumpahead(10**18), then the next; made with CPython 2.7.18
python2 = {
    0: ((1, 1, 1), 0.01693090619965683, 0.8952539112379991, 0.9437141346035212, 0.9598140342028405),
    1: ((2, 1, 1), 0.02258025041320865, 0.8612917717553605, 0.2506948739738344, 0.2401007962366044),
    42: ((43, 1, 1), 0.25420336316883324, 0.46884405296716114, 0.8369051881566616, 0.731858039620925),
    -1: ((30268, 30306, 30322), 0.983069093800343, 0.10474608876200076, 0.05628586539647862, 0.04018596579715972),
    -100000000000000000000: ((14741, 28598, 1841), 0.8991779464412618, 0.7392070885003461, 0.8705108782120277, 0.1898272452182952),
    457428938475: ((4976, 20238, 499), 0.7645251082582081, 0.7920889799553945, 0.3819381563053321, 0.025470981486575894),
    27814431486575: ((30268, 30306, 30322), 0.983069093800343, 0.10474608876200076, 0.05628586539647862, 0.04018596579715972),
    27814431486576: ((1, 1, 1), 0.01693090619965683, 0.8952539112379991, 0.9437141346035212, 0.9598140342028405),
    18446744073709551616: ((25077, 17862, 20071), 0.564193766415352, 0.32440981857507234, 0.29218082835055004, 0.2435094609644377),
    1000000000000000000000000000000: ((2165, 22096, 2952), 0.1811124337507597, 0.8208810372117163, 0.509068564310813, 0.2849677959208452),
}

@pytest.mark.parametrize('seed', python2)
def test_python_2(seed):
    state,u1,u2,u1000,far = python2[seed]
    rng = WichmannHill(seed)
    assert rng.getstate()==(1, state, None)
    u = [rng.random() for _ in range(1000)]
    assert (u[0],u[1],u[999])==(u1,u2,u1000)
    rng.jumpahead(10**18)
    assert rng.random()==far

@many
@given(states)
def test_random(state):
    rng,want = at(state),as_183(state)
    assert [rng.random() for _ in range(20)]==[next(want) for _ in range(20)]

@many
@given(st.integers(-2**200, 2**200))
def test_integer_seeds(n):
    rest,want = n,[]
    for m in (30268,30306,30322):
        rest,x = divmod(rest, m)
        want.append(x+1)
    assert WichmannHill(n).getstate()[1]==tuple(want)

def test_extreme_sums_never_reach_0_or_1():
    for x in (1,2,15134,15135,30267,30268):
        for y in (1,2,15153,15154,30305,30306):
            near = [round(30323*(w - x/30269 - y/30307)) + d for w in (0,1,2) for d in (-1,0,1)]
            z = [1,2,15161,15162,30320,30321,30322] + [max(1, min(30322, v)) for v in near]
            for v in z: assert 0 < (x/30269 + y/30307 + v/30323) % 1.0 < 1

# ------------------------------------------------------------------ blocks

@many
@given(states, st.integers(0, 300))
def test_blocks(state, n):
    a,b = at(state),at(state)
    assert a.rand(n).tolist()==[b.random() for _ in range(n)]
    assert a.getstate()==b.getstate()

@settings(max_examples=15, deadline=None)
@given(states, st.lists(st.sampled_from([0,1,2,30267,30268,30269,30306,30322,60535,60536,60537,100_000]), min_size=1, max_size=3))
def test_long_blocks(state, sizes):
    a,b = at(state),at(state)
    for n in sizes:
        assert a.rand(n).tolist()==[b.random() for _ in range(n)]
        assert a.getstate()==b.getstate()
        assert a.random()==b.random()

@pytest.mark.parametrize('state', [(1,1,1), (30268,30306,30322), (177,176,178)])
def test_a_long_block(state):
    a,b,n = at(state),at(state),200_000
    u = a.rand(n).numpy()
    assert np.array_equal(u, np.fromiter((b.random() for _ in range(n)), float)) and a.getstate()==b.getstate()
    assert 0 < u.min() and u.max() < 1

def test_taking_off_the_whole_part_is_exact():
    near = [np.nextafter(w, d) for w in (1.,2.,3.) for d in (0.,9.) if not (w==3 and d==9)]
    x = np.concatenate([np.random.default_rng(0).uniform(0, 3, 200_000), near])
    assert torch.from_numpy(x.copy()).frac_().tolist()==[v % 1.0 for v in x.tolist()]

def test_rand_and_randn_shapes():
    rng = WichmannHill(1)
    for f in (rng.rand, rng.randn):
        assert f().shape==() and f(3).shape==(3,) and f(0, 5).shape==(0,5) and f(2).dtype==torch.float64
        assert f(2, 3).shape==f((2,3)).shape==f([2,3]).shape==f(torch.Size([2,3])).shape==(2,3)
    a,b = WichmannHill(1),WichmannHill(1)
    assert a.rand(4, 5).flatten().tolist()==[b.random() for _ in range(20)]

@settings(max_examples=200, deadline=None)
@given(states, st.integers(0, 100))
def test_randn_is_gauss(state, n):
    a,b = at(state),at(state)
    np.testing.assert_allclose(a.randn(n), [b.gauss(0, 1) for _ in range(n)], rtol=1e-9, atol=1e-12)
    b.gauss_next = None
    assert a.getstate()==b.getstate()

def test_randn_ignores_half_a_gauss():
    a,b = WichmannHill(1),WichmannHill(1)
    first,second,third,fourth = (a.gauss(0, 1) for _ in range(4))
    np.testing.assert_allclose([b.gauss(0, 1), *b.randn(2), b.gauss(0, 1)], [first, third, fourth, second], rtol=1e-9)

def test_tables_are_small(): assert sum(t.nbytes for tables in mr._tables() for t in tables) < 2_000_000

# ------------------------------------------------------------------ a citizen of random

try: import test.test_random as cpython  # Some systems package Python without its tests
except ImportError: cpython = None

if cpython:
    class TestAsInCPython(cpython.TestBasicOps, unittest.TestCase):
        "CPython's own tests of what a generator of the module `random` does"
        gen = WichmannHill()
        if sys.version_info<(3,11): test_seedargs = test_seed_when_randomness_source_not_found = None  # They seed with complex numbers
        assertWarns = staticmethod(pytest.warns)  # unittest's looks into every module, and wakes lazy ones of transformers

    TestSubclassing = cpython.TestRandomSubclassing

def distributions(r):
    yield from (r.random(), r.uniform(1, 3), r.triangular(0, 1, .3), r.betavariate(2, 3), r.expovariate(2))
    yield from (r.gammavariate(2, 1), r.gauss(1, 2), r.lognormvariate(0, 1), r.normalvariate(0, 1), r.vonmisesvariate(0, 1))
    yield from (r.paretovariate(3), r.weibullvariate(1, 2), r.randint(1, 6), r.randrange(0, 100, 7), r.choice('abc'))
    yield from (r.choices('abc', k=5), r.sample(range(1000), 5), r.getrandbits(77), r.randbytes(9))
    x = list(range(20))
    r.shuffle(x)
    yield x
    if hasattr(r, 'binomialvariate'): yield r.binomialvariate(10, .4)

def test_all_distributions_come_from_our_numbers():
    assert list(distributions(WichmannHill(5)))==list(distributions(WichmannHill(5)))
    assert list(distributions(WichmannHill(5)))!=list(distributions(WichmannHill(6)))
    class Plain(random.Random):
        def __init__(self):
            self.us = as_183(WichmannHill(5).getstate()[1])
            super().__init__()
        def random(self): return next(self.us)
        getrandbits = WichmannHill.getrandbits
    assert list(distributions(WichmannHill(5)))==list(distributions(Plain()))

def test_without_getrandbits_only_bits_and_bytes_come_from_elsewhere():
    "What the notebook says about subclasses of `random.Random`"
    class Plain(random.Random):
        def random(self): return (2**51+3) / 2**53
    rng = Plain(1)
    assert {rng.randrange(8) for _ in range(20)}=={3} and {rng.choice('abcd') for _ in range(20)}=={'d'}
    assert len({tuple(rng.sample(range(8), 2)) for _ in range(20)})==1
    assert len({rng.getrandbits(64) for _ in range(20)})==len({rng.randbytes(8) for _ in range(20)})==20

def test_distributions_have_the_right_means():
    r,n = WichmannHill(3),20_000
    for draw,mean,sd in ((lambda: r.randint(1, 6), 3.5, 1.7079), (lambda: r.expovariate(1), 1, 1), (lambda: r.gauss(0, 1), 0, 1),
                         (lambda: r.getrandbits(40)/2**40, .5, .2887), (lambda: r.randbytes(1)[0], 127.5, 73.9),
                         (lambda: r.sample(range(101), 1)[0], 50, 29.15)):
        assert abs(sum(draw() for _ in range(n))/n - mean) < 5*sd/n**.5

@many
@given(st.integers(0, 200), states)
def test_getrandbits(k, state):
    a,b = at(state),at(state)
    bits = a.getrandbits(k)
    words = [int(b.random()*2**32) for _ in range(-(-k//32))]
    assert 0 <= bits < 2**k or bits==k==0
    assert bits==sum(w << 32*i for i,w in enumerate(words)) >> -k%32
    assert a.getstate()==b.getstate()

@pytest.mark.parametrize('seed', [None, 0, -1, 10**40, True, 1.5, float('nan'), 'text', b'bytes', np.int64(7), torch.tensor(7)])
def test_seed_types(seed):
    a,b = WichmannHill(seed),WichmannHill()
    b.seed(seed)
    assert (a.getstate()==b.getstate())==(seed is not None)
    assert 0 < a.random() < 1

def test_seeds_of_other_types_are_the_same_everywhere():
    rng = WichmannHill(0)
    for seed in 'x', b'x', bytearray(b'x'):
        rng.seed(seed, version=2)
        assert rng.getstate()==(1, (25979, 6403, 27217), None)
    assert WichmannHill(1.5).getstate()==WichmannHill('1.5').getstate()
    assert WichmannHill(np.int64(7)).getstate()==WichmannHill(7).getstate()

def test_a_new_seed_forgets_half_a_gauss():
    a = WichmannHill(1)
    a.gauss(0, 1)
    assert a.gauss_next is not None
    a.seed(1)
    assert a.gauss_next is None and a.gauss(0, 1)==WichmannHill(1).gauss(0, 1)

protocols = [lambda r, p=p: pickle.loads(pickle.dumps(r, p)) for p in range(2, pickle.HIGHEST_PROTOCOL+1)]

@pytest.mark.parametrize('twin', [copy.copy, copy.deepcopy, *protocols])
def test_copies_go_on_alike_and_apart(twin):
    a = WichmannHill(1)
    a.gauss(0, 1)
    b = twin(a)
    assert type(b) is WichmannHill and b.getstate()==a.getstate()
    assert list(distributions(a))==list(distributions(b))
    a.random()
    assert a.getstate()!=b.getstate()

def test_states_through_json():
    a,b = WichmannHill(1),WichmannHill(2)
    a.gauss(0, 1)
    b.setstate(json.loads(json.dumps(a.getstate())))
    assert b.getstate()==a.getstate()

@pytest.mark.parametrize('state', [(1, (0,1,1), None), (1, (1,30307,1), None), random.Random(1).getstate()])
def test_a_state_that_is_none_of_ours_changes_nothing(state):
    rng = WichmannHill(1)
    with pytest.raises(ValueError): rng.setstate(state)
    assert rng.getstate()==WichmannHill(1).getstate()

@pytest.mark.parametrize('call', [lambda r: r.rand(2, -1), lambda r: r.rand(2.), lambda r: r.randn(-1), lambda r: r.randn(-1, -2), lambda r: r.jumpahead(1.5), lambda r: r.getrandbits(1.5), lambda r: r.getrandbits(-1),
                                  lambda r: r.seed([1]), lambda r: r.seed(1j)])
def test_what_makes_no_sense_changes_nothing(call):
    rng = WichmannHill(1)
    with pytest.raises((TypeError, ValueError)): call(rng)
    assert rng.getstate()==WichmannHill(1).getstate()

# ------------------------------------------------------------------ jumps

@many
@given(states, st.integers(0, 2000))
def test_jumpahead(state, n):
    a,b = at(state),at(state)
    a.jumpahead(n)
    for _ in range(n): b.random()
    assert a.getstate()==b.getstate()
    a.jumpahead(-n)
    assert a.getstate()[1]==state

@many
@given(states, st.integers(-10**18, 10**18), st.integers(-10**18, 10**18))
def test_far_jumps_add_up(state, m, n):
    a,b,c = at(state),at(state),at(state)
    a.jumpahead(m)
    a.jumpahead(n)
    b.jumpahead(m+n)
    c.jumpahead((m+n) % period)
    assert a.getstate()==b.getstate()==c.getstate()

def test_the_period_is_the_shortest():
    start = WichmannHill(1).getstate()
    for n,same in ((period,True), *((period//p, False) for p in (2,3,7,23,47,5051,15161))):
        rng = WichmannHill(1)
        rng.jumpahead(n)
        assert (rng.getstate()==start)==same, n

# ------------------------------------------------------------------ forks, for real

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}

fork = '''
import os, warnings, random, numpy as np, torch
from miniai.random import WichmannHill
warnings.simplefilter('ignore')
rng,own = WichmannHill(42),random.Random(42)
draws = rng.random, random.random, own.random, np.random.rand, lambda: torch.rand(1).item()
def draw(who): print(who, *(d() for d in draws), flush=True)
draw('before')
for i in range(2):
    if os.fork()==0:
        draw('child')
        rng.seed(f'42, child {i}')
        draw('seeded')
        os._exit(0)
    os.wait()
draw('parent')
'''

@needs_fork
def test_a_fork_copies_every_generator_but_pythons_own():
    res = subprocess.run([sys.executable, '-c', fork], capture_output=True, text=True, env=env)
    assert res.returncode==0, res.stderr
    lines = [line.split() for line in res.stdout.splitlines()]
    children = [line[1:] for line in lines if line[0] in ('child','parent')]
    different = [len(set(us)) for us in zip(*children)]
    assert len(children)==3 and different==[1,3,1,1,1]
    assert len({line[1] for line in lines if line[0]!='child'})==4

workers = '''
import warnings, numpy as np, torch
from torch.utils.data import DataLoader, Dataset
from miniai.random import WichmannHill
warnings.simplefilter('ignore')
class Noisy(Dataset):
    def __init__(self, rng): self.rng,self.pcg = rng,np.random.default_rng(1)
    def __len__(self): return 6
    def __getitem__(self, i): return self.rng.random(), self.pcg.random(), np.random.rand()
for how in 'nothing','init','init':
    rng = WichmannHill(42)
    torch.manual_seed(0)
    dl = DataLoader(Noisy(rng), batch_size=None, num_workers=2, multiprocessing_context='fork',
                    worker_init_fn=rng.worker_init_fn if how=='init' else None)
    for epoch in range(2):
        for us in dl: print(how, *us)
'''

@needs_fork
def test_forked_workers_repeat_until_cured():
    "PyTorch seeds `np.random` in its workers, and knows nothing of other generators"
    res = subprocess.run([sys.executable, '-c', workers], env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    lines = [line.split() for line in res.stdout.splitlines()]
    repeated,ours = ([line[1:] for line in lines if line[0]==how] for how in ('nothing','init'))
    assert [len(set(us)) for us in zip(*repeated)]==[3,3,12]
    ours = [us[0] for us in ours]
    assert ours[:12]==ours[12:] and len(set(ours))==12

def test_workers_that_are_not_forked_seed_the_generator_of_their_dataset():
    "Both are pickled together"
    rng = WichmannHill(42)
    dataset,init = pickle.loads(pickle.dumps((dict(rng=rng), rng.worker_init_fn)))
    assert init.__self__ is dataset['rng'] is not rng
