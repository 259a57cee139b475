"What a notebook cell can't show well about `miniai.linear`."
import pytest, torch
from hypothesis import given, settings, strategies as st

from miniai.fashion import load_fashion_mnist
from miniai.linear import LinearClassifier
from miniai.random import WichmannHill

@pytest.fixture(scope='module')
def data(): return tuple(load_fashion_mnist(s, path='sample', quiet=True) for s in ('train','test'))

def off(a, b): return ((a-b).norm()/b.norm()).item()

def toy(n=300, n_in=5, n_out=3, seed=0):
    "Three heaps of points"
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(n_out, (n,), generator=g)
    centres = 3*torch.randn(n_out, n_in, generator=g)
    return centres[y] + torch.randn(n, n_in, generator=g), y

def fitted(x, y, **kwargs):
    m = LinearClassifier(5, 3)
    m.fit(x, y, **kwargs)
    return m

@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32), st.sampled_from([.1, 1, 30]))
def test_gradients_are_autograds(n, n_in, n_out, seed, scale):
    g = torch.Generator().manual_seed(seed)
    m = LinearClassifier(n_in, n_out)
    m.weight,m.bias = (scale*torch.randn(*s, generator=g, dtype=torch.float64) for s in ((n_in,n_out),(n_out,)))
    x,y = torch.randn(n, n_in, generator=g, dtype=torch.float64),torch.randint(n_out, (n,), generator=g)
    w,b = m.weight.clone().requires_grad_(),m.bias.clone().requires_grad_()
    want = torch.nn.functional.cross_entropy(x@w+b, y)
    want.backward()
    for got,expected in zip(m.gradients(x, y), (want, w.grad, b.grad)): torch.testing.assert_close(got, expected.detach())

def test_a_step_is_a_step_on_standardised_inputs():
    "One plain step here equals one on (x-mean)/sigma, folded back"
    x,y = toy()
    m = fitted(x, y, epochs=1, batch_size=len(x), lr=.3)
    mean,sigma = x.mean(0),(x.var(0, correction=0)+.01).sqrt()
    v,c = torch.zeros(5, 3, requires_grad=True),torch.zeros(3, requires_grad=True)
    torch.nn.functional.cross_entropy((x-mean)/sigma@v + c, y).backward()
    weight = -.3*v.grad/sigma[:,None]
    assert off(m.weight, weight) < 1e-4
    assert off(m.bias, -.3*c.grad - mean@weight) < 1e-4

def test_features_far_from_zero():
    "Their variance must not drown in the squares of their means"
    x,y = toy()
    x = x/30 + 1000
    assert fitted(x, y, batch_size=20).accuracy(x, y) > .9

def test_reaches_the_minimum_where_there_is_one():
    "With labels that contradict each other no weights separate the data, so the convex loss has a minimum"
    x,y = toy(n=400)
    y[::5] = (y[::5]+1) % 3
    m = fitted(x, y, epochs=300, batch_size=400, lr=.3)
    assert max(g.abs().max() for g in m.gradients(x, y)[1:]) < 2e-3

def test_separable_data_have_no_minimum():
    "The weights go on growing, and the loss falling, for as long as we train"
    x,y = toy()
    x = x + 20*torch.eye(5)[y]
    short,long = (fitted(x, y, epochs=e, batch_size=300, lr=.3) for e in (100,1000))
    assert short.accuracy(x, y)==1 and long.weight.norm() > 1.05*short.weight.norm()
    assert 0 < long.gradients(x, y)[0] < short.gradients(x, y)[0]/2

def test_starts_at_zero_and_at_the_loss_of_guessing():
    m = LinearClassifier()
    assert m.weight.shape==(784,10) and m.bias.shape==(10,) and not m.weight.any() and not m.bias.any()
    loss = next(m.steps(torch.rand(20, 784), torch.arange(20) % 10))
    assert loss==pytest.approx(torch.tensor(10.).log().item(), rel=1e-4)

def test_fashion_sample(data):
    (x,y),(xt,yt) = data
    m = LinearClassifier()
    losses = m.fit(x, y, epochs=20, lr=.01, batch_size=50, generator=WichmannHill(42))
    assert len(losses)==600 and sum(losses[-30:]) < sum(losses[:30])/3
    assert m.accuracy(xt, yt) > .80
    assert m.predict(xt[:7]).shape==(7,) and m.predict(xt[0].flatten()).shape==()

@pytest.mark.parametrize('make', [WichmannHill, lambda s: torch.Generator().manual_seed(s)])
def test_same_seed_same_weights(make):
    x,y = toy()
    a,b,c = (fitted(x, y, batch_size=7, generator=make(s)) for s in (1,1,2))
    assert off(a.weight, b.weight) < 1e-3 and off(a.bias, b.bias) < 1e-3 < off(a.weight, c.weight)

def test_without_generator_torchs_own():
    def run():
        torch.manual_seed(3)
        return fitted(*toy()).weight
    assert off(run(), run()) < 1e-3

@pytest.mark.parametrize('generator', [WichmannHill(1), torch.Generator(), None])
def test_every_input_once_an_epoch(generator):
    seen = []
    class Watched(LinearClassifier):
        def gradients(self, x, y):
            seen.extend(y.tolist())
            return super().gradients(x, y)
    Watched(1, 100).fit(torch.zeros(100, 1), torch.arange(100), epochs=2, batch_size=7, generator=generator)
    first,second = seen[:100],seen[100:]
    assert sorted(first)==sorted(second)==list(range(100)) and first!=second

@pytest.mark.parametrize('n, batch_size, steps', [(10,3,4), (10,10,1), (10,100,1), (1,1,1), (9,3,3)])
def test_batches(n, batch_size, steps): assert len(LinearClassifier(5, 3).fit(*toy(n), epochs=2, batch_size=batch_size))==2*steps

def test_kinds_of_input():
    m = LinearClassifier(6, 2)
    m.weight = torch.randn(6, 2)
    x = torch.randint(256, (4,2,3), dtype=torch.uint8)
    want = x.flatten(1).float()/255 @ m.weight
    for same in (x, x.flatten(1), x.double()/255, x.float()/255): assert off(m(same), want) < 1e-4
    assert m(torch.rand(0, 6)).shape==(0,2) and m(torch.rand(6)).shape==(2,)

def test_inputs_are_left_alone():
    x,y = toy()
    before = x.clone(),y.clone()
    LinearClassifier(5, 3).fit(x, y)
    assert x.equal(before[0]) and y.equal(before[1])

def test_steps_may_be_left_early():
    m = LinearClassifier(5, 3)
    next(m.steps(*toy()))
    assert m.weight.any()

def test_save_and_load(tmp_path):
    m = fitted(*toy())
    m.save(tmp_path/'m.safetensors')
    again = LinearClassifier.load(tmp_path/'m.safetensors')
    assert again.weight.equal(m.weight) and again.bias.equal(m.bias)
    m.weight = torch.randn(3, 5).T
    m.save(tmp_path/'m.safetensors')
    assert LinearClassifier.load(tmp_path/'m.safetensors').weight.equal(m.weight)

x5,y5 = toy(20)

@pytest.mark.parametrize('call', [lambda m: m(torch.zeros(5, 4)), lambda m: m.fit(x5, y5+1), lambda m: m.fit(x5, y5-1), lambda m: m.fit(x5, y5[:3]),
                                  lambda m: m.fit(x5, y5.float()), lambda m: m.fit(x5, y5, batch_size=0), lambda m: m.fit(x5, y5, generator=42)])
def test_a_mistake_is_an_error_and_trains_nothing(call):
    m = LinearClassifier(5, 3)
    with pytest.raises((TypeError, ValueError, RuntimeError, IndexError)): call(m)
    assert not m.weight.any()
