"What a notebook cell cannot show well about `miniai.random`: parity with Python 2, whole distributions, forks, streams."
import copy,os,pickle,random,shutil,subprocess,sys,time
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pytest, torch
from hypothesis import given,settings,strategies as st

import miniai.random as mr
from miniai.random import WichmannHill,period

many = settings(max_examples=2000, deadline=None)
states = st.tuples(*(st.integers(1, m-1) for m in (30269,30307,30323)))

def at(state):
    rng = WichmannHill(0)
    rng.setstate((1, state, None))
    return rng

def as_183(state):
    "The algorithm once more, in other words."
    while True:
        state = tuple(a*s % m for s,(a,m) in zip(state, ((171,30269),(172,30307),(170,30323))))
        yield (state[0]/30269.0 + state[1]/30307.0 + state[2]/30323.0) % 1.0

# ------------------------------------------------------------------ the algorithm

def test_check_values():
    rng = WichmannHill(457428938475)
    assert rng.getstate()==(1, (4976,20238,499), None)
    assert [rng.random() for _ in range(4)]==[0.7645251082582081, 0.7920889799553945, 0.06912886811267205, 0.9559050644103264]

python2 = {  # seed: state and numbers 1, 2, 1000 of random.WichmannHill, jumpahead(10**18), then the next; made with CPython 2.7.18
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
    for m in (30268,30306,30322): rest,x = divmod(rest, m); want.append(x+1)
    assert WichmannHill(n).getstate()[1]==tuple(want)

def test_extreme_sums_never_reach_0_or_1():
    for x in (1,2,15134,15135,30267,30268):
        for y in (1,2,15153,15154,30305,30306):
            z = [1,2,15161,15162,30320,30321,30322] + [max(1, min(30322, round(30323*(w - x/30269 - y/30307)) + d)) for w in (0,1,2) for d in (-1,0,1)]
            for v in z: assert 0 < (x/30269 + y/30307 + v/30323) % 1.0 < 1

# ------------------------------------------------------------------ blocks

@many
@given(states, st.integers(0, 300))
def test_blocks(state, n):
    a,b = at(state),at(state)
    assert a.uniform(n).tolist()==[b.random() for _ in range(n)]
    assert a.getstate()==b.getstate()

@settings(max_examples=40, deadline=None)
@given(states, st.lists(st.sampled_from([0,1,2,30267,30268,30269,30306,30322,60535,60536,60537,61000,100_000]), min_size=1, max_size=3))
def test_long_blocks(state, sizes):
    a,b = at(state),at(state)
    for n in sizes:
        assert a.uniform(n).tolist()==[b.random() for _ in range(n)]
        assert a.getstate()==b.getstate()
        assert a.random()==b.random()

@pytest.mark.parametrize('state', [(1,1,1), (30268,30306,30322), (177,176,178), (171,172,170)])
def test_a_million(state):
    a,b = at(state),at(state)
    u = a.uniform(1_000_000).numpy()
    assert np.array_equal(u, np.fromiter((b.random() for _ in range(1_000_000)), float)) and a.getstate()==b.getstate()
    assert 0 < u.min() and u.max() < 1

def test_taking_off_the_whole_part_is_exact():
    near = [np.nextafter(w, d) for w in (1.,2.,3.) for d in (0.,9.) if not (w==3 and d==9)]
    x = np.concatenate([np.random.default_rng(0).uniform(0, 3, 1_000_000), near])
    assert torch.from_numpy(x.copy()).frac_().tolist()==[v % 1.0 for v in x.tolist()]

def test_out():
    a,b = WichmannHill(1),WichmannHill(1)
    t = torch.empty(3, 50, dtype=torch.float64)
    assert a.uniform(150, out=t) is t and torch.equal(t, b.rand(3, 50))
    row = torch.zeros(3, 50, dtype=torch.float64)
    a.uniform(50, row[1])
    assert torch.equal(row[1], b.uniform(50)) and not row[0].any() and not row[2].any()

def test_rand_and_randn_shapes():
    rng = WichmannHill(1)
    for f in (rng.rand, rng.randn):
        assert f().shape==() and f(3).shape==(3,) and f(2, 3).shape==f((2,3)).shape==f(torch.Size([2,3])).shape==(2,3) and f(0, 5).shape==(0,5)
        assert f(2).dtype==torch.float64
    a,b = WichmannHill(1),WichmannHill(1)
    assert a.rand(4, 5).flatten().tolist()==[b.random() for _ in range(20)]

@settings(max_examples=300, deadline=None)
@given(states, st.integers(0, 100))
def test_randn_is_gauss(state, n):
    a,b = at(state),at(state)
    np.testing.assert_allclose(a.randn(n), [b.gauss(0, 1) for _ in range(n)], rtol=1e-9, atol=1e-12)
    b.gauss_next = None
    assert a.getstate()==b.getstate()

def test_uniform_of_two_numbers_is_pythons():
    a,b = WichmannHill(1),WichmannHill(1)
    assert a.uniform(2, 5)==2+3*b.random() and a.uniform(-1.5, 1)==-1.5+2.5*b.random()

def test_tables_are_small_and_quick():
    mr._tables.cache_clear()
    start = time.process_time()
    tables = mr._tables()
    assert time.process_time()-start < .05
    assert sum(t.nbytes for table in tables for t in table) < 2_000_000

# ------------------------------------------------------------------ a citizen of random

def distributions(r):
    yield from (r.random(), r.uniform(1, 3), r.triangular(0, 1, .3), r.betavariate(2, 3), r.expovariate(2), r.gammavariate(2, 1), r.gauss(1, 2),
                r.lognormvariate(0, 1), r.normalvariate(0, 1), r.vonmisesvariate(0, 1), r.paretovariate(3), r.weibullvariate(1, 2))
    yield from (r.randint(1, 6), r.randrange(0, 100, 7), r.choice('abc'), r.choices('abc', k=5), r.sample(range(1000), 5), r.getrandbits(77), r.randbytes(9))
    x = list(range(20))
    r.shuffle(x)
    yield x
    if hasattr(r, 'binomialvariate'): yield r.binomialvariate(10, .4)

def test_all_distributions_come_from_our_numbers():
    assert list(distributions(WichmannHill(5)))==list(distributions(WichmannHill(5)))
    assert list(distributions(WichmannHill(5)))!=list(distributions(WichmannHill(6)))
    class Plain(random.Random):
        def __init__(self): self.us = as_183(WichmannHill(5).getstate()[1]); super().__init__()
        def random(self): return next(self.us)
        getrandbits = WichmannHill.getrandbits
    assert list(distributions(WichmannHill(5)))==list(distributions(Plain()))

def test_distributions_have_the_right_means():
    r,n = WichmannHill(3),20_000
    for draw,mean,sd in ((lambda: r.randint(1, 6), 3.5, 1.7079), (lambda: r.expovariate(1), 1, 1), (lambda: r.gauss(0, 1), 0, 1), (lambda: r.getrandbits(40)/2**40, .5, .2887),
                         (lambda: r.randbytes(1)[0], 127.5, 73.9), (lambda: r.sample(range(101), 1)[0], 50, 29.15)):
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

@pytest.mark.parametrize('seed', [None, 0, -1, 10**40, True, 1.5, float('nan'), 'text', b'bytes', bytearray(b'bytes'), np.int64(7), torch.tensor(7)])
def test_seed_types(seed):
    a,b = WichmannHill(seed),WichmannHill()
    b.seed(seed)
    assert (a.getstate()==b.getstate())==(seed is not None)
    assert 0 < a.random() < 1

def test_seeds_of_other_types_are_the_same_everywhere():
    assert WichmannHill('x').getstate()==WichmannHill(b'x').getstate()==WichmannHill(bytearray(b'x')).getstate()==(1, (25979, 6403, 27217), None)
    assert WichmannHill(1.5).getstate()==(1, (22589, 7268, 6738), None)
    assert WichmannHill(np.int64(7)).getstate()==WichmannHill(7).getstate()

def test_a_new_seed_forgets_half_a_gauss():
    a = WichmannHill(1)
    a.gauss(0, 1)
    assert a.gauss_next is not None
    a.seed(1)
    assert a.gauss_next is None and a.gauss(0, 1)==WichmannHill(1).gauss(0, 1)

@pytest.mark.parametrize('twin', [copy.copy, copy.deepcopy, *(lambda r, p=p: pickle.loads(pickle.dumps(r, p)) for p in range(2, pickle.HIGHEST_PROTOCOL+1))])
def test_copies_go_on_alike_and_apart(twin):
    a = WichmannHill(1, fork_safe=True).spawn(1)[0]
    a.gauss(0, 1)
    b = twin(a)
    assert type(b) is WichmannHill and (b.getstate(),b._left(),b.fork_safe)==(a.getstate(),a._left(),True)
    assert list(distributions(a))==list(distributions(b))
    a.random()
    assert a.getstate()!=b.getstate()

def test_states_through_json():
    import json
    a,b = WichmannHill(1),WichmannHill(2)
    a.gauss(0, 1)
    b.setstate(json.loads(json.dumps(a.getstate())))
    assert b.getstate()==a.getstate()

def test_subclasses():
    class Mine(WichmannHill):
        def shout(self): return 'ho'
    kids = Mine(1).spawn(2)
    assert all(k.shout()=='ho' for k in kids) and type(pickle.loads(pickle.dumps(WichmannHill(1)))) is WichmannHill

def test_the_lessons_functions():
    mr.seed(457428938475)
    assert [mr.rand(), mr.rand()]==[0.7645251082582081, 0.7920889799553945]

# ------------------------------------------------------------------ jumps and streams

@many
@given(states, st.integers(0, 2000))
def test_jumpahead(state, n):
    a,b = at(state),at(state)
    a.jumpahead(n)
    for _ in range(n): b.random()
    assert a.getstate()==b.getstate()

@many
@given(states, st.integers(0, 10**18), st.integers(0, 10**18))
def test_far_jumps_add_up(state, m, n):
    a,b = at(state),at(state)
    a.jumpahead(m); a.jumpahead(n)
    b.jumpahead(m+n)
    assert a.getstate()==b.getstate()
    assert at(state).steps_to(a)==(m+n) % period

def test_jumpahead_is_quick():
    rng = WichmannHill(1)
    start = time.process_time()
    for _ in range(1000): rng.jumpahead(10**18)
    assert time.process_time()-start < .5

def test_other_circles():
    with pytest.raises(ValueError, match='different circles'): at((1,1,1)).steps_to(at((171,1,1)))

def arcs_apart(root, owners):
    "Do the pieces of the circle that `owners` have not meet?"
    arcs = sorted((root.steps_to(o), o._left()) for o in owners)
    return all(start+length <= following for (start,length),(following,_) in zip(arcs, arcs[1:] + [(period,0)]))

@settings(max_examples=200, deadline=None)
@given(st.integers(), st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 1000))
def test_spawned_streams_do_not_meet(seed, counts, drawn):
    rng,root = WichmannHill(seed),WichmannHill(seed)
    kids = []
    for n in counts:
        rng.uniform(drawn)
        kids += rng.spawn(n)
    assert len(kids)==sum(counts) and all(k._left()==10**9 for k in kids) and rng._left() > 10**9
    assert arcs_apart(root, [rng, *kids])
    root.uniform(drawn*len(counts))
    assert rng.getstate()==root.getstate()

def test_grandchildren_and_jumps():
    root,rng = WichmannHill(1),WichmannHill(1)
    kids = rng.spawn(3)
    grand = [g for k in kids for g in k.spawn(4, 10**8)]
    rng.jumpahead(10**12)
    kids2 = rng.spawn(2)
    assert arcs_apart(root, [rng, *kids, *kids2, *grand])

def test_as_many_streams_as_fit():
    assert len(WichmannHill(1).spawn(6953))==6953==period//10**9
    with pytest.raises(ValueError, match='6954 streams of 1,000,000,000 numbers do not fit into the 6,953,607,871,644'): WichmannHill(1).spawn(6954)
    with pytest.raises(ValueError, match='do not fit'): WichmannHill(1).spawn(1)[0].spawn(1)

def test_spawned_streams_through_processes():
    code = 'import pickle,sys; r = pickle.load(sys.stdin.buffer); print(r.random(), r._left())'
    kid = WichmannHill(4).spawn(2)[1]
    left = kid._left()
    out = subprocess.run([sys.executable, '-c', code], input=pickle.dumps(kid), capture_output=True, check=True).stdout.split()
    assert (float(out[0]),int(out[1]))==(kid.random(), left-1)

# ------------------------------------------------------------------ forks, for real

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')

def fresh(code, *args):
    res = subprocess.run([sys.executable, '-W', 'error', '-c', code, *map(str, args)], capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    return [line.split() for line in res.stdout.splitlines()]

fork = '''
import os,sys
from miniai.random import WichmannHill
rng = WichmannHill(42, fork_safe=sys.argv[1]=='True')
rng.gauss(0, 1)
def say(name): print(name, *rng.getstate()[1], rng._left(), rng.gauss(0, 1), flush=True)
def child(f):
    if (pid := os.fork())==0:
        f()
        os._exit(0)
    assert os.waitpid(pid, 0)[1]==0
def family():
    child(lambda: say('grandchild'))
    child(lambda: say('grandchild'))
    say('child')
for _ in range(3): child(family)
say('parent')
'''

@needs_fork
def test_forks_without_care_repeat():
    lines = fresh(fork, False)
    assert len(lines)==10 and len({line[-1] for line in lines if line[0]!='grandchild'})==1

@needs_fork
def test_fork_safe():
    lines = fresh(fork, True)
    owners = []
    for _,x,y,z,left,_ in lines:
        owners.append(at((int(x),int(y),int(z))))
        owners[-1]._end = mr._jump(owners[-1]._state, int(left))
    assert len(lines)==10 and len({line[-1] for line in lines})==10
    root = WichmannHill(42)
    assert all(o._left() > 10**6 for o in owners) and arcs_apart(root, owners)
    unforked = WichmannHill(42)
    unforked.gauss(0, 1)
    assert float(lines[-1][-1])==unforked.gauss(0, 1)

many_forks = '''
import os
from miniai.random import WichmannHill
rngs = [WichmannHill(s, fork_safe=True) for s in (1,1,2)]
seen = set()
for i in range(200):
    r,w = os.pipe()
    if (pid := os.fork())==0:
        os.write(w, repr([g.getstate()[1] for g in rngs]).encode())
        os._exit(0)
    os.close(w)
    a,b,c = eval(os.read(r, 1000))
    os.close(r)
    os.waitpid(pid, 0)
    assert a==b!=c
    seen |= {a,c}
print(len(seen), rngs[0]._left())
'''

@needs_fork
def test_many_forks():
    (seen,left), = fresh(many_forks)
    assert int(seen)==400 and int(left) > period//2

threads = '''
import os,threading
from miniai.random import WichmannHill
rng = WichmannHill(1, fork_safe=True)
out,lock = [],threading.Lock()
def work():
    for _ in range(10):
        r,w = os.pipe()
        if (pid := os.fork())==0:
            os.write(w, repr(rng.getstate()[1]).encode())
            os._exit(0)
        os.close(w)
        s = os.read(r, 1000)
        os.close(r)
        os.waitpid(pid, 0)
        with lock: out.append(s)
ts = [threading.Thread(target=work) for _ in range(4)]
for t in ts: t.start()
for t in ts: t.join()
print(len(out), len(set(out)))
'''

@needs_fork
def test_forks_from_threads():
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', threads], capture_output=True, text=True, timeout=60)
    assert res.stdout.split()==['40','40'], res.stderr

workers = '''
import sys,warnings,torch
warnings.simplefilter('ignore')
from torch.utils.data import DataLoader,Dataset
from miniai.random import WichmannHill
class Noisy(Dataset):
    def __init__(self, rng): self.rng = rng
    def __len__(self): return 6
    def __getitem__(self, i): return self.rng.random()
def main(how, start):
    rng = WichmannHill(42, fork_safe=how=='fork_safe')
    torch.manual_seed(0)
    dl = DataLoader(Noisy(rng), batch_size=None, num_workers=2, multiprocessing_context=start, worker_init_fn=rng.worker_init_fn if how=='init' else None)
    for epoch in range(2): print(*[x for x in dl])
if __name__=='__main__': main(*sys.argv[1:])
'''

def loads(tmp_path, how, start):
    (tmp_path/'workers.py').write_text(workers)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    res = subprocess.run([sys.executable, 'workers.py', how, start], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    return res.stdout.split()

@needs_fork
def test_dataloader_workers_repeat_without_care(tmp_path): assert len(set(loads(tmp_path, 'nothing', 'fork')))==3

@needs_fork
@pytest.mark.parametrize('how', ['init','fork_safe'])
def test_dataloader_workers_cured(tmp_path, how):
    got = loads(tmp_path, how, 'fork')
    assert len(got)==len(set(got))==12 and got==loads(tmp_path, how, 'fork')

def test_dataloader_workers_that_are_not_forked(tmp_path):
    got = loads(tmp_path, 'init', 'spawn')
    assert len(got)==len(set(got))==12

def test_nothing_breaks_in_threads():
    rng = WichmannHill(1)
    with ThreadPoolExecutor(4) as pool: us = [u for part in pool.map(lambda _: rng.uniform(1000).tolist(), range(40)) for u in part]
    assert len(us)==40_000 and all(0 < u < 1 for u in us)

# ------------------------------------------------------------------ bad input

@pytest.mark.parametrize('f, error, words', [
    (lambda r: WichmannHill([1]), TypeError, 'got list'),
    (lambda r: r.seed((1,2)), TypeError, 'got tuple'),
    (lambda r: r.seed(1, version=1), ValueError, 'version 2'),
    (lambda r: r.setstate(random.Random(1).getstate()), ValueError, 'getstate'),
    (lambda r: r.setstate(5), ValueError, 'getstate'),
    (lambda r: r.setstate((2, (1,2,3), None)), ValueError, 'version 2'),
    (lambda r: r.setstate((1, (0,1,1), None)), ValueError, 'below 30269'),
    (lambda r: r.setstate((1, (1,30307,1), None)), ValueError, '30307'),
    (lambda r: r.setstate((1, (1.,1,1), None)), ValueError, 'ints'),
    (lambda r: r.jumpahead(-1), ValueError, 'got -1'),
    (lambda r: r.jumpahead(1.5), TypeError, 'float'),
    (lambda r: r.getrandbits(-1), ValueError, 'got -1'),
    (lambda r: r.getrandbits(1.5), TypeError, 'float'),
    (lambda r: r.uniform(-1), ValueError, 'got -1'),
    (lambda r: r.uniform(1.5), TypeError, 'float'),
    (lambda r: r.uniform('5'), TypeError, 'str'),
    (lambda r: r.uniform(3, out=[0,0,0]), TypeError, 'got list'),
    (lambda r: r.uniform(3, out=torch.empty(3)), ValueError, 'float32'),
    (lambda r: r.uniform(3, out=torch.empty(4, dtype=torch.float64)), ValueError, '3 elements'),
    (lambda r: r.uniform(3, out=torch.empty(6, dtype=torch.float64)[::2]), ValueError, 'contiguous'),
    (lambda r: r.uniform(3, out=torch.empty(3, dtype=torch.float64, requires_grad=True)), ValueError, 'gradient'),
    (lambda r: r.uniform(3, out=torch.empty(3, dtype=torch.float64, device='meta')), ValueError, 'meta'),
    (lambda r: r.rand(2, -1), ValueError, 'negative'),
    (lambda r: r.randn(-1, -2), ValueError, 'negative'),
    (lambda r: r.rand(2.), TypeError, 'float'),
    (lambda r: r.spawn(-1), ValueError, 'got -1'),
    (lambda r: r.spawn(1, 0), ValueError, 'length'),
    (lambda r: r.spawn(1.), TypeError, 'float'),
    (lambda r: r.worker_init_fn(0), RuntimeError, 'DataLoader'),
])
def test_bad_input(f, error, words):
    rng = WichmannHill(1)
    with pytest.raises(error, match=words): f(rng)
    assert rng.getstate()==WichmannHill(1).getstate() and rng._left()==period
