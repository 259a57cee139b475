"What a notebook cell cannot show well about `miniai.iterators`."
import subprocess,sys,tracemalloc
from fractions import Fraction
from inspect import isgenerator
from itertools import chain,count,islice

import pytest
from hypothesis import given,settings,strategies as st

from miniai.iterators import chunks

many = settings(max_examples=2000, deadline=None)

@many
@given(st.lists(st.integers()), st.integers(1, 50))
def test_like_slices(xs, n):
    assert list(chunks(xs, n)) == [xs[i:i+n] for i in range(0, len(xs), n)]

@many
@given(st.lists(st.integers()), st.integers(1, 50))
def test_any_source_gives_the_same(xs, n):
    want = list(chunks(xs, n))
    for source in (iter(xs), tuple(xs), (x for x in xs), dict.fromkeys(enumerate(xs))):
        got = list(chunks(source, n))
        assert [len(c) for c in got] == [len(c) for c in want]
    assert list(chain.from_iterable(chunks(iter(xs), n))) == xs

@settings(max_examples=500, deadline=None)
@given(st.integers(1, 20), st.integers(0, 20))
def test_takes_no_more_than_asked(n, k):
    taken = []
    source = (taken.append(i) or i for i in count())
    assert list(islice(chunks(source, n), k)) == [list(range(i*n, i*n+n)) for i in range(k)]
    assert len(taken) == n*k

def test_is_a_generator_of_lists():
    c = chunks('abc', 2)
    assert isgenerator(c) and next(c) == ['a','b']

def test_nothing_is_taken_before_the_first_next():
    taken = []
    chunks((taken.append(i) for i in range(3)), 2)
    assert taken == []

@pytest.mark.parametrize('n', [0, -1, -10**30])
def test_n_too_small_fails_at_once(n):
    with pytest.raises(ValueError, match=f'at least 1, got {n}'): chunks([1], n)

@pytest.mark.parametrize('n', [2., '2', None, Fraction(2)])
def test_n_no_integer_fails_at_once(n):
    with pytest.raises(TypeError): chunks([1], n)

def test_not_iterable_fails_at_once():
    with pytest.raises(TypeError, match='not iterable'): chunks(3, 1)

def test_an_error_in_the_source_comes_through():
    c = chunks((1//(2-i) for i in range(5)), 2)
    assert next(c) == [0,1]
    with pytest.raises(ZeroDivisionError): next(c)

def test_memory_does_not_grow():
    def peak(n):
        tracemalloc.start()
        for _ in chunks((object() for _ in range(n)), 100): pass
        try: return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    peak(1000)
    assert peak(100_000) < 2*peak(1000)

@pytest.mark.parametrize('module', ['miniai.iterators', 'miniai.matrix'])
def test_imports_neither_torch_nor_numpy(module):
    log = subprocess.run([sys.executable, '-X', 'importtime', '-c', f'import {module}'], capture_output=True, text=True, check=True).stderr
    imported = {line.split('|')[-1].strip().split('.')[0] for line in log.splitlines()}
    assert 'miniai' in imported and not imported & {'torch', 'numpy'}
