"What a notebook cell cannot show well about `miniai.linear`."
import pytest,torch
from hypothesis import given,settings,strategies as st
from safetensors.torch import save_file

from miniai.fashion import load_fashion_mnist
from miniai.linear import LinearClassifier
from miniai.random import WichmannHill

@pytest.fixture(scope='module')
def data(): return tuple(load_fashion_mnist(s, path='sample', quiet=True) for s in ('train','test'))

def toy(n=300, n_in=5, n_out=3, seed=0):
    "Three heaps of points."
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(n_out, (n,), generator=g)
    centres = 3*torch.randn(n_out, n_in, generator=g)
    return centres[y] + torch.randn(n, n_in, generator=g), y

@settings(max_examples=200, deadline=None)
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
    "One plain step here equals one on (x-mean)/sigma, folded back."
    x,y = toy()
    m = LinearClassifier(5, 3)
    m.fit(x, y, epochs=1, batch_size=len(x), lr=.3)
    mean,sigma = x.mean(0),(x.var(0, correction=0)+.01).sqrt()
    v,c = torch.zeros(5, 3, requires_grad=True),torch.zeros(3, requires_grad=True)
    torch.nn.functional.cross_entropy((x-mean)/sigma@v + c, y).backward()
    weight = -.3*v.grad/sigma[:,None]
    torch.testing.assert_close(m.weight, weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(m.bias, -.3*c.grad - mean@weight, atol=1e-5, rtol=1e-4)

def test_reaches_the_bottom_of_the_bowl():
    x,y = toy(n=400)
    y[::5] = (y[::5]+1) % 3
    m = LinearClassifier(5, 3)
    m.fit(x, y, epochs=300, batch_size=400, lr=.3)
    assert max(g.abs().max() for g in m.gradients(x, y)[1:]) < 2e-3

def test_starts_at_zero_and_at_the_loss_of_guessing():
    m = LinearClassifier()
    assert m.weight.shape==(784,10) and m.bias.shape==(10,) and not m.weight.any() and not m.bias.any()
    loss = next(m.steps(torch.rand(20, 784), torch.arange(20) % 10))
    assert abs(loss - torch.tensor(10.).log()) < 1e-5

def test_fashion_sample(data):
    (x,y),(xt,yt) = data
    m = LinearClassifier()
    losses = m.fit(x, y, epochs=20, lr=.02, batch_size=50, generator=WichmannHill(42))
    assert len(losses)==600 and sum(losses[-30:]) < sum(losses[:30])/3
    assert m.accuracy(xt, yt) > .80
    assert m.predict(xt[:7]).shape==(7,) and m.predict(xt[0].flatten()).shape==()

def test_full_fashion_mnist_reaches_the_published_figure():
    x,y = load_fashion_mnist('train', quiet=True)
    if len(x)<60_000: pytest.skip('only the sample of Fashion-MNIST is on this machine')
    m = LinearClassifier()
    m.fit(x, y, generator=WichmannHill(42))
    assert m.accuracy(*load_fashion_mnist('test', quiet=True)) >= .842

@pytest.mark.parametrize('make', [WichmannHill, lambda s: torch.Generator().manual_seed(s)])
def test_same_seed_same_weights(make):
    x,y = toy()
    def run(seed):
        m = LinearClassifier(5, 3)
        m.fit(x, y, batch_size=7, generator=make(seed))
        return m
    a,b,c = run(1),run(1),run(2)
    assert a.weight.equal(b.weight) and a.bias.equal(b.bias) and not a.weight.equal(c.weight)

def test_without_generator_torchs_own():
    x,y = toy()
    def run():
        torch.manual_seed(3)
        m = LinearClassifier(5, 3)
        m.fit(x, y)
        return m.weight
    assert run().equal(run())

def test_every_input_once_an_epoch():
    from miniai.linear import _shuffled
    for g in (WichmannHill(1), torch.Generator(), None): assert _shuffled(1000, g).sort().values.equal(torch.arange(1000))

@pytest.mark.parametrize('n, batch_size, steps', [(10,3,4), (10,10,1), (10,100,1), (1,1,1), (9,3,3)])
def test_batches(n, batch_size, steps):
    x,y = toy(n)
    m = LinearClassifier(5, 3)
    assert len(m.fit(x, y, epochs=2, batch_size=batch_size))==2*steps

def test_kinds_of_input():
    m = LinearClassifier(6, 2)
    m.weight = torch.randn(6, 2)
    x = torch.randint(256, (4,2,3), dtype=torch.uint8)
    want = x.flatten(1).float()/255 @ m.weight
    for same in (x, x.flatten(1), x.double()/255, x.float()/255): torch.testing.assert_close(m(same), want)
    assert m(torch.rand(0, 6)).shape==(0,2) and m(torch.rand(6)).shape==(2,)

def test_inputs_are_left_alone():
    x,y = toy()
    before = x.clone(),y.clone()
    LinearClassifier(5, 3).fit(x, y)
    assert x.equal(before[0]) and y.equal(before[1])

def test_steps_may_be_left_early():
    x,y = toy()
    m = LinearClassifier(5, 3)
    next(m.steps(x, y))
    assert m.weight.any()

def test_save_and_load(tmp_path):
    m = LinearClassifier(5, 3)
    m.fit(*toy())
    m.save(tmp_path/'m.safetensors')
    again = LinearClassifier.load(tmp_path/'m.safetensors')
    assert again.weight.equal(m.weight) and again.bias.equal(m.bias)
    m.weight = torch.randn(3, 5).T
    m.save(tmp_path/'m.safetensors')
    assert LinearClassifier.load(tmp_path/'m.safetensors').weight.equal(m.weight)

def test_load_what_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.safetensors'): LinearClassifier.load(tmp_path/'nothing.safetensors')
    (tmp_path/'text').write_text('hello, this is no model')
    with pytest.raises(ValueError, match='no safetensors file'): LinearClassifier.load(tmp_path/'text')
    for t in ({'weight':torch.zeros(2,2)}, {'weight':torch.zeros(2,2),'bias':torch.zeros(3)}, {'weight':torch.zeros(2),'bias':torch.zeros(2)}):
        save_file(t, tmp_path/'odd')
        with pytest.raises(ValueError, match='no linear classifier'): LinearClassifier.load(tmp_path/'odd')

x5,y5 = toy(20)

@pytest.mark.parametrize('f, error, words', [
    (lambda m: LinearClassifier(0, 3), ValueError, 'got 0 and 3'),
    (lambda m: LinearClassifier(2.5, 3), TypeError, 'float'),
    (lambda m: m(torch.zeros(5, 4)), ValueError, r'5 numbers; got a tensor of shape \(5, 4\)'),
    (lambda m: m(torch.zeros(4)), ValueError, r'\(4,\)'),
    (lambda m: m(torch.tensor(1.)), ValueError, r'\(\)'),
    (lambda m: m([1,2]), TypeError, 'got list'),
    (lambda m: m(torch.zeros(2, 5, dtype=torch.complex64)), TypeError, 'complex'),
    (lambda m: m.predict('x'), TypeError, 'got str'),
    (lambda m: m.accuracy(x5, y5[:3]), ValueError, r'\(20,\), got \(3,\)'),
    (lambda m: m.accuracy(x5[:0], y5[:0]), ValueError, 'one or more'),
    (lambda m: m.accuracy(x5, y5.float()), TypeError, 'float32'),
    (lambda m: m.accuracy(x5, y5>0), TypeError, 'bool'),
    (lambda m: m.accuracy(x5, y5.tolist()), TypeError, 'got list'),
    (lambda m: m.fit(x5, y5+1), ValueError, 'from 0 to 2, got 1 to 3'),
    (lambda m: m.fit(x5, y5-1), ValueError, 'got -1'),
    (lambda m: m.fit(x5, y5[:,None]), ValueError, r'\(20, 1\)'),
    (lambda m: m.fit(x5[0], y5[:1]), ValueError, r'got \(5,\)'),
    (lambda m: m.fit(x5[:0], y5[:0]), ValueError, 'one or more'),
    (lambda m: m.fit(x5/0, y5), ValueError, 'infinite or not a number'),
    (lambda m: m.fit(x5, y5, epochs=0), ValueError, 'got 0 and 250'),
    (lambda m: m.fit(x5, y5, epochs=1.5), TypeError, 'float'),
    (lambda m: m.fit(x5, y5, batch_size=0), ValueError, 'got 8 and 0'),
    (lambda m: m.fit(x5, y5, lr=0), ValueError, 'above 0'),
    (lambda m: m.fit(x5, y5, lr=float('nan')), ValueError, 'nan'),
    (lambda m: m.fit(x5, y5, lr='fast'), TypeError, "'<'|number"),
    (lambda m: m.fit(x5, y5, generator=42), TypeError, 'got int'),
])
def test_bad_input(f, error, words):
    m = LinearClassifier(5, 3)
    with pytest.raises(error, match=words): f(m)
    assert not m.weight.any()
