"What a notebook cell can't show well about `miniai.matrix`: it computes what NumPy computes, exactly, and shares nothing."
import copy, operator, pickle, random
from array import array
from collections.abc import Iterable
from fractions import Fraction

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from miniai.matrix import Matrix

many = settings(max_examples=200, deadline=None)
ints = st.integers(-100, 100)
sizes = st.integers(1, 5)
seeds = st.integers(0, 2**64)

@st.composite
def pairs(draw, shape=None, number=lambda r: r.randint(-100, 100)):
    "A Matrix, and the NumPy array of the same numbers, which `number` makes from a `random.Random`"
    r,c = shape or (draw(sizes), draw(sizes))
    source = random.Random(draw(seeds))
    rows = [[number(source) for _ in range(c)] for _ in range(r)]
    whole = all(isinstance(v, int) for row in rows for v in row)
    return Matrix(rows), np.array(rows, dtype=int if whole else object).reshape(r, c)

def vectors(n): return seeds.map(lambda seed: random.Random(seed).choices(range(-100, 101), k=n))

@st.composite
def keys(draw, shape):
    "An index for `shape`: integers and slices"
    def place(n):
        bound = st.none() | st.integers(-n-2, n+2)
        a_slice = st.builds(slice, bound, bound, st.none() | st.integers(-3, 3).filter(bool))
        return draw(st.integers(-n, n-1) | a_slice)
    row = place(shape[0])
    return (row, place(shape[1])) if draw(st.booleans()) else row

def same(got, want):
    "A Matrix without rows has no columns either; otherwise all is as in NumPy"
    if isinstance(got, Matrix): return want.ndim==2 and got.tolist()==want.tolist() and got.shape==(want.shape if len(want) else (0,0))
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

@many
@given(st.data(), st.sampled_from([operator.add, operator.sub, operator.mul]), ints)
def test_arithmetic(data, op, s):
    m,a = data.draw(pairs())
    n,b = data.draw(pairs(m.shape))
    assert same(op(m, n), op(a, b))
    assert same(op(m, s), op(a, s)) and same(op(s, m), op(s, a))
    assert same(-m, -a) and same(abs(m), abs(a))

@many
@given(st.data())
def test_division_and_power(data):
    m,a = data.draw(pairs())
    n,b = data.draw(pairs(m.shape, lambda r: r.randint(1, 50)))
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
    assert m@w==(a@np.array(w)).tolist() and v@m==(np.array(v)@a).tolist()

@many
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32))
def test_matmul_of_floats(i, j, k, seed):
    "Off by no more than rounding each of `j` products and sums can explain"
    a,b = (np.random.default_rng(seed).normal(size=s) for s in ((i,j), (j,k)))
    bound = 2*j*np.finfo(float).eps * (abs(a)@abs(b))
    assert (abs(np.asarray(Matrix(a)@Matrix(b)) - a@b) <= bound).all()

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
    assert m.flat==a.ravel().tolist() and Matrix.from_flat(m.flat, m.shape[1])==m
    x = data.draw(ints)
    assert (x in m)==(x in a)
    assert all(row in m for row in m)

def anything(r):
    "An int, a Fraction, a float or a complex number"
    return r.choice([r.randint, lambda a,b: Fraction(r.randint(a, b), r.randint(1, 50)), r.uniform, lambda a,b: complex(r.gauss(0, b), r.gauss(0, b))])(-10**9, 10**9)

@many
@given(pairs(number=anything))
def test_reads_back_and_copies(ma):
    m,_ = ma
    for twin in eval(repr(m)), copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m)), Matrix(m):
        assert twin==m and twin is not m and twin[0] is not m[0]
    assert len({len(line) for line in str(m).splitlines()})==1 and len(str(m).splitlines())==len(m)

def fraction(r): return Fraction(r.randint(-99, 99), r.randint(1, 99))

@many
@given(st.data())
def test_fractions_are_exact(data):
    m,a = data.draw(pairs((3,3), fraction))
    n,b = data.draw(pairs((3,3), fraction))
    assert (m@n).tolist()==[[sum(a[i,k]*b[k,j] for k in range(3)) for j in range(3)] for i in range(3)]
    assert (m@n).T==n.T@m.T and (m+n)-n==m and all(isinstance(v, (int,Fraction)) for v in (m@n).flat)

def test_large_integers_are_exact():
    big = Matrix([[2**100,1], [0,3**80]])
    assert (big@big).tolist()==[[2**200, 2**100+3**80], [0, 3**160]]

# ------------------------------------------------------------------ sharing

def test_nothing_is_shared():
    rows = [[1,2],[3,4]]
    m = Matrix(rows)
    rows[0][0] = 99
    for copied in m[0], m.tolist()[0], next(iter(m)), m.flat: copied[0] = 9
    for twin in copy.copy(m), m[:, :], m.T, m+0, Matrix(m): twin[0,0] = 50
    n = Matrix.zeros(2, 2)
    n[:] = m
    n[0,0] = 7
    assert m==Matrix([[1,2],[3,4]])

def test_rows_of_zeros_are_not_one_row():
    z = Matrix.zeros(3, 2)
    z[0,0] = 1
    assert z.tolist()==[[1,0],[0,0],[0,0]]

def test_in_place_changes_every_name():
    m = n = Matrix([[2,4]])
    m **= 2; m -= 1; m /= 3
    assert n is m and n==Matrix([[1,5]])
    m @= Matrix.eye(2)
    assert m==Matrix([[1,5]])

# ------------------------------------------------------------------ the data model

class Other:
    def __radd__(self, o): return 'radd'
    def __matmul__(self, o): return 'matmul'
    def __rmatmul__(self, o): return 'rmatmul'
    def __eq__(self, o): return 'eq'

def test_the_other_side_may_answer():
    m,o = Matrix([[1,2]]),Other()
    assert (m+o, m@o, o@m, m==o)==('radd','rmatmul','matmul','eq')
    m += o
    assert m=='radd' and Matrix([[1,2]])!=[[1,2]]

def test_iterable_but_no_key():
    assert isinstance(Matrix([]), Iterable)
    with pytest.raises(TypeError): hash(Matrix([]))

@pytest.mark.parametrize('rows', [([1,2],[3,4]), (range(2),range(2)), [array('d', [1,2])], (r for r in [(1,2)]), [b'ab'], np.eye(2), torch.eye(2)])
def test_rows_of_many_kinds(rows):
    m = Matrix(rows)
    assert m.shape[1]==2 and all(type(v) in (int,float) for v in m.flat)

def test_numpy_torch_and_matplotlib():
    m = Matrix([[1,2],[3,4.5]])
    assert torch.equal(torch.tensor(np.asarray(m)), torch.tensor([[1,2],[3,4.5]], dtype=torch.float64))
    assert np.asarray(m, dtype=np.float32).dtype==np.float32
    assert np.asarray(Matrix([[Fraction(1,3)]])).dtype==object
    for mixed in np.ones((2,2))*m, m*np.ones((2,2)): assert np.array_equal(mixed, np.asarray(m))
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    assert plt.imshow(m).get_array().shape==(2,2)
    plt.close()

# ------------------------------------------------------------------ mistakes

m23 = Matrix([[1,2,3],[4,5,6]])

@pytest.mark.parametrize('f, error', [
    (lambda: Matrix([[1,2],[3,4],[5]]), ValueError),
    (lambda: Matrix([1,2,3]), TypeError),
    (lambda: Matrix(torch.tensor(3)), TypeError),
    (lambda: Matrix.from_flat([1,2,3], 2), ValueError),
    (lambda: m23[2], IndexError),
    (lambda: m23[0,-4], IndexError),
    (lambda: m23[0,0,0], ValueError),
    (lambda: m23[1.], TypeError),
    (lambda: m23.__setitem__(5, 1), IndexError),
    (lambda: m23.__setitem__(0, [1]), ValueError),
    (lambda: m23.__setitem__((slice(None),0), [1]), ValueError),
    (lambda: m23.__setitem__(slice(None), m23.T), ValueError),
    (lambda: m23.__setitem__(slice(2), m23[:, :2]), ValueError),
    (lambda: m23.__setitem__(0, Matrix.zeros(3, 1)), TypeError),
    (lambda: m23.__setitem__(0, [9,'a',3]), TypeError),
    (lambda: m23.__setitem__(slice(None), [[9,9,9],[1,2]]), ValueError),
    (lambda: m23.__setitem__(slice(None), [1,2]), TypeError),
    (lambda: m23.__setitem__(slice(None), [[9,9,9],[9,9,'a']]), TypeError),
    (lambda: m23.__setitem__((0,0), [1]), TypeError),
    (lambda: m23.__setitem__(0, 'abc'), TypeError),
    (lambda: m23+m23.T, ValueError),
    (lambda: m23+[1,2,3], TypeError),
    (lambda: m23*'a', TypeError),
    (lambda: m23@m23, ValueError),
    (lambda: m23@[1,2], ValueError),
    (lambda: [1,2,3]@m23, ValueError),
    (lambda: m23@2, TypeError),
    (lambda: m23@'abc', TypeError),
    (lambda: m23@[[1],[2],[3]], TypeError),
])
def test_a_mistake_is_no_silent_answer_and_changes_nothing(f, error):
    before = m23.tolist()
    with pytest.raises(error): f()
    assert m23.tolist()==before
