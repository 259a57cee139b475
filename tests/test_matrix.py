"What a notebook cell cannot show well about `miniai.matrix`: it does what NumPy does, and fails with a reason."
import copy,operator,pickle,random
from array import array
from collections.abc import Iterable
from fractions import Fraction

import numpy as np, pytest, torch
from hypothesis import given,settings,strategies as st

from miniai.matrix import Matrix

many = settings(max_examples=2000, deadline=None)
ints = st.integers(-100, 100)
sizes = st.integers(0, 5)
seeds = st.integers(0, 2**64)

@st.composite
def pairs(draw, shape=None, number=lambda r: r.randint(-100, 100)):
    "A Matrix, and the NumPy array of the same numbers, which `number` makes from a `random.Random`."
    r,c = shape or (draw(sizes), draw(sizes))
    source = random.Random(draw(seeds))
    rows = [[number(source) for _ in range(c)] for _ in range(r)]
    m = Matrix(rows) if r else Matrix.zeros(0, c)
    return m, np.array(m.flat, dtype=None if all(isinstance(v, int) for v in m.flat) and m.flat else object).reshape(r, c)

def vectors(n): return seeds.map(lambda seed: random.Random(seed).choices(range(-100, 101), k=n))

@st.composite
def keys(draw, shape):
    "An index for `shape`: integers where there are any to pick, and slices."
    def place(n):
        bound = st.none() | st.integers(-n-2, n+2)
        a_slice = st.builds(slice, bound, bound, st.none() | st.integers(-3, 3).filter(bool))
        return draw(st.integers(-n, n-1) | a_slice if n else a_slice)
    row = place(shape[0])
    return (row, place(shape[1])) if draw(st.booleans()) else row

def same(got, want):
    if isinstance(got, Matrix): return want.ndim==2 and got.shape==want.shape and got.tolist()==want.tolist()
    if isinstance(got, list): return want.ndim==1 and got==want.tolist()
    return np.ndim(want)==0 and got==want

@many
@given(st.data())
def test_indexing(data):
    m,a = data.draw(pairs())
    k = data.draw(keys(m.shape))
    assert same(m[k], a[k])

@many
@given(st.data())
def test_assignment(data):
    m,a = data.draw(pairs())
    k = data.draw(keys(m.shape))
    dims = np.shape(a[k])
    if not dims or data.draw(st.booleans()): value = array_value = data.draw(ints)
    elif len(dims)==1: value = array_value = data.draw(vectors(dims[0]))
    else: value,array_value = data.draw(pairs(dims))
    m[k] = value
    a[k] = array_value
    assert same(m, a)

@many
@given(st.data())
def test_assignment_from_itself(data):
    m,a = data.draw(pairs())
    f = data.draw(st.sampled_from([lambda x: x[::-1], lambda x: x[:, ::-1]]))
    m[:, :] = f(m)
    a[:, :] = f(a).copy()
    assert same(m, a)

elementwise = st.sampled_from([operator.add, operator.sub, operator.mul])

@many
@given(st.data(), elementwise, ints)
def test_arithmetic(data, op, s):
    m,a = data.draw(pairs())
    n,b = data.draw(pairs(m.shape))
    assert same(op(m, n), op(a, b))
    assert same(op(m, s), op(a, s)) and same(op(s, m), op(s, a))
    assert same(-m, -a) and same(abs(m), abs(a))

@many
@given(st.data())
def test_division_and_power(data):
    m,_ = data.draw(pairs())
    n,_ = data.draw(pairs(m.shape, lambda r: r.randint(1, 50)))
    a,b = np.asarray(m),np.asarray(n).astype(int)
    assert same(m/n, a/b) and same(3/n, 3/b) and same(m/7, a/7)
    assert same(m**2, a**2) and same(2**n, 2**b.astype(object)) and same(m**(n*0+3), a**3)

@many
@given(st.data(), st.sampled_from([operator.iadd, operator.isub, operator.imul]))
def test_in_place(data, op):
    m,a = data.draw(pairs())
    n,b = data.draw(pairs(m.shape))
    before = m
    m = op(m, n)
    assert m is before and same(m, op(a, b))
    assert same(op(m, 3), op(a, 3))

@many
@given(st.data())
def test_matmul(data):
    m,a = data.draw(pairs())
    n,b = data.draw(pairs((m.shape[1], data.draw(sizes))))
    assert same(m@n, a@b)
    v,w = (data.draw(vectors(s)) for s in m.shape)
    assert m@w==(a@np.array(w, dtype=int)).tolist() and v@m==(np.array(v, dtype=int)@a).tolist()

@settings(max_examples=500, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32))
def test_matmul_of_floats(i, j, k, seed):
    a,b = (np.random.default_rng(seed).normal(size=s) for s in ((i,j), (j,k)))
    np.testing.assert_allclose(Matrix(a)@Matrix(b), a@b, rtol=1e-9, atol=1e-12)

@many
@given(pairs())
def test_transposition(ma):
    m,a = ma
    assert same(m.T, a.T) and m.T.T==m

@many
@given(st.data())
def test_the_container_protocol(data):
    m,a = data.draw(pairs())
    assert len(m)==len(a) and list(m)==a.tolist() and list(reversed(m))==a.tolist()[::-1]
    assert m.flat==a.ravel().tolist()
    x = data.draw(ints)
    assert (x in m)==(x in a)
    assert all(row in m for row in m)

def anything(r):
    "An int, a Fraction, a float or a complex number."
    return r.choice([r.randint, lambda a,b: Fraction(r.randint(a, b), r.randint(1, 50)), r.uniform, lambda a,b: complex(r.gauss(0, b), r.gauss(0, b))])(-10**9, 10**9)

def fraction(r): return Fraction(r.randint(-99, 99), r.randint(1, 99))

@many
@given(pairs(number=anything))
def test_reads_back_and_copies(ma):
    m,_ = ma
    for twin in (eval(repr(m)), copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m)), Matrix(m)):
        assert twin==m and twin.shape==m.shape and twin is not m
    assert isinstance(str(m), str) and isinstance(m._repr_html_(), str)

@many
@given(st.data())
def test_fractions_are_exact(data):
    m,_ = data.draw(pairs((2,2), fraction))
    n,_ = data.draw(pairs((2,2), fraction))
    assert (m@n).T==n.T@m.T and (m+n)-n==m and all(isinstance(v, (int,Fraction)) for v in (m@n).flat)

# ------------------------------------------------------------------ sharing

def test_nothing_is_shared():
    rows = [[1,2],[3,4]]
    m = Matrix(rows)
    rows[0][0] = 99
    m[0].append(9), m.tolist()[0].append(9), list(m)[0].append(9), m.T.tolist()
    assert m==Matrix([[1,2],[3,4]])
    for twin in (copy.copy(m), m[:, :], m.T, m+0, Matrix(m)): twin[0,0] = 50
    assert m[0,0]==1
    z = Matrix.zeros(3, 2)
    z[0,0] = 1
    assert z[1,0]==0

def test_in_place_changes_every_name(): 
    m = n = Matrix([[2,4]])
    m **= 2; m -= 1; m /= 3
    assert n is m and n==Matrix([[1,5]])
    m @= Matrix.eye(2)
    assert m==Matrix([[1,5]])

# ------------------------------------------------------------------ the data model

def test_not_implemented_where_asked():
    m = Matrix([[1,2]])
    for name in ('add','radd','iadd','sub','mul','truediv','pow','rpow','matmul','rmatmul','eq'):
        assert getattr(m, f'__{name}__')(object()) is NotImplemented, name
    assert m!='a' and not m==[[1,2]]

class Other:
    def __radd__(self, o): return 'radd'
    def __matmul__(self, o): return 'matmul'
    def __rmatmul__(self, o): return 'rmatmul'
    def __eq__(self, o): return 'eq'

def test_the_other_side_may_answer():
    m,o = Matrix([[1,2]]),Other()
    assert (m+o, m@o, o@m, m==o)==('radd','rmatmul','matmul','eq')

def test_iterable_but_no_key():
    assert isinstance(Matrix([]), Iterable)
    with pytest.raises(TypeError): hash(Matrix([]))

@pytest.mark.parametrize('rows', [([1,2],[3,4]), (range(2),range(2)), [array('d', [1,2])], (r for r in [(1,2)]), [b'ab'], np.eye(2), torch.eye(2), np.zeros((3,0))])
def test_rows_of_many_kinds(rows):
    m = Matrix(rows)
    assert m.shape[1] in (0,2) and all(type(v) in (int,float) for v in m.flat)

def test_numpy_torch_and_matplotlib():
    m = Matrix([[1,2],[3,4.5]])
    assert torch.equal(torch.tensor(np.asarray(m)), torch.tensor([[1,2],[3,4.5]], dtype=torch.float64))
    assert np.asarray(m, dtype=np.float32).dtype==np.float32 and np.array(Matrix.zeros(0, 3)).shape==(0,3)
    assert np.asarray(Matrix([[Fraction(1,3)]])).dtype==object
    with pytest.raises(ValueError, match='copy'): m.__array__(copy=False)
    assert isinstance(np.float32(2)*m, Matrix) and isinstance(np.ones((2,2))*m, np.ndarray) and isinstance(m@np.ones((2,2)), np.ndarray)
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    assert plt.imshow(m).get_array().shape==(2,2)
    plt.close()

def test_pictures():
    import base64,io,re
    from PIL import Image
    m = Matrix([[i*j % 256 for j in range(30)] for i in range(20)])
    png = re.search('base64,([^"]+)', m._repr_html_())[1]
    lo,hi = min(m.flat),max(m.flat)
    want = [[int(255*(v-lo)/(hi-lo)) for v in row] for row in m]
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).tolist()==want
    assert Matrix([[1,2]])._repr_html_().count('<td')==2
    assert '&lt;' in Matrix([['<b>', 1]])._repr_html_()
    for odd in (Matrix([[float('nan'), float('inf'), 1.]]), Matrix([[1j, 2]]), Matrix([[7]]), Matrix([[10**400, 1]]), Matrix.zeros(3, 0), Matrix.zeros(20, 20), Matrix.zeros(3000, 2)):
        assert odd._repr_html_()

def test_str_is_short_and_aligned():
    lines = str(Matrix.zeros(1000, 1000)).splitlines()
    assert len(lines)==9 and lines[-1]=='(1000 × 1000)' and len(set(map(len, lines[:-1])))==1
    assert len(str(Matrix.zeros(0, 3)))<20

# ------------------------------------------------------------------ bad input

m23 = Matrix([[1,2,3],[4,5,6]])

@pytest.mark.parametrize('f, error, words', [
    (lambda: Matrix([[1,2],[3,4],[5]]), ValueError, 'Row 2 has 1 numbers, but row 0 has 2'),
    (lambda: Matrix(7), TypeError, 'got int'),
    (lambda: Matrix('ab'), TypeError, 'got str'),
    (lambda: Matrix(['ab']), TypeError, 'Row 0'),
    (lambda: Matrix([[1], 2]), TypeError, 'Row 1'),
    (lambda: Matrix(torch.tensor(3)), TypeError, 'rows'),
    (lambda: Matrix.from_flat([1,2,3], 2), ValueError, '3 values do not fill rows of 2'),
    (lambda: Matrix.from_flat([1], 0), ValueError, 'rows of 0'),
    (lambda: Matrix.from_flat([1], -1), ValueError, 'ncols'),
    (lambda: Matrix.from_flat([1], 1.), TypeError, 'float'),
    (lambda: Matrix.zeros(-1, 2), ValueError, 'nrows'),
    (lambda: Matrix.zeros(2, -1), ValueError, 'ncols'),
    (lambda: Matrix.zeros(0, -1), ValueError, 'ncols'),
    (lambda: Matrix.zeros(2., 1), TypeError, 'float'),
    (lambda: Matrix.eye(-1), ValueError, 'got -1'),
    (lambda: m23[2], IndexError, r'\(2, 3\)'),
    (lambda: m23[0,-4], IndexError, r'\(2, 3\)'),
    (lambda: m23[0,0,0], IndexError, 'two places'),
    (lambda: m23['a'], TypeError, 'integers and slices'),
    (lambda: m23[0,None], TypeError, 'integers and slices'),
    (lambda: m23[1.], TypeError, 'integers and slices'),
    (lambda: m23[::0], ValueError, 'zero'),
    (lambda: m23.__setitem__(5, 1), IndexError, r'\(2, 3\)'),
    (lambda: m23.__setitem__(0, [1]), ValueError, r'\(1,\).*\(3,\)'),
    (lambda: m23.__setitem__((slice(None),0), [1]), ValueError, r'\(1,\).*\(2,\)'),
    (lambda: m23.__setitem__(slice(None), m23.T), ValueError, r'\(3, 2\).*\(2, 3\)'),
    (lambda: m23.__setitem__((0,0), [1]), TypeError, 'one number'),
    (lambda: m23.__setitem__(0, 'abc'), TypeError, 'str'),
    (lambda: m23+m23.T, ValueError, r'add.*\(2, 3\).*\(3, 2\)'),
    (lambda: m23+[1,2,3], TypeError, 'unsupported'),
    (lambda: m23*'a', TypeError, "can't multiply|unsupported"),
    (lambda: m23@m23, ValueError, r'\(2, 3\) @ \(2, 3\)'),
    (lambda: m23@[1,2], ValueError, r'\(2, 3\) @ \(2,\)'),
    (lambda: [1,2,3]@m23, ValueError, r'\(3,\) @ \(2, 3\)'),
    (lambda: m23@2, TypeError, 'unsupported'),
    (lambda: m23@'abc', TypeError, 'unsupported'),
    (lambda: m23@[[1],[2],[3]], TypeError, 'flat sequence'),
])
def test_bad_input(f, error, words):
    before = m23.tolist()
    with pytest.raises(error, match=words): f()
    assert m23.tolist()==before
