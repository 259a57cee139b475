"What a notebook cell can't show well about `miniai.iterators`."
import subprocess, sys
from collections.abc import Iterator
from itertools import chain, count, islice

import pytest
from hypothesis import given, settings, strategies as st

from miniai.iterators import chunks

many = settings(max_examples=1000, deadline=None)

@many
@given(st.lists(st.integers()), st.integers(1, 50))
def test_like_slices(xs, n):
    assert list(chunks(xs, n)) == [xs[i:i+n] for i in range(0, len(xs), n)]

@many
@given(st.lists(st.integers()), st.integers(1, 50))
def test_any_source_gives_the_same(xs, n):
    want = list(chunks(xs, n))
    for source in iter(xs), tuple(xs), (x for x in xs): assert list(chunks(source, n)) == want
    assert list(chain.from_iterable(chunks(iter(xs), n))) == xs

@settings(max_examples=500, deadline=None)
@given(st.integers(1, 20), st.integers(0, 20))
def test_takes_no_more_than_asked(n, k):
    taken = []
    source = (taken.append(i) or i for i in count())
    assert list(islice(chunks(source, n), k)) == [list(range(i*n, i*n+n)) for i in range(k)]
    assert len(taken) == n*k

def test_items_that_are_falsy_or_empty_lists_do_not_end_it():
    assert list(chunks([0,None,[],'',[]], 2)) == [[0,None],[[],''],[[]]]

def test_nothing_is_taken_before_the_first_next():
    taken = []
    assert isinstance(chunks((taken.append(i) for i in range(3)), 2), Iterator)
    assert taken == []

@pytest.mark.parametrize('args, error', [(([1], 0), ValueError), (([1], -1), ValueError), (([1], '2'), TypeError), (([1], 2.5), TypeError), ((3, 1), TypeError)])
def test_a_wrong_argument_fails_in_the_call_itself(args, error):
    with pytest.raises(error): chunks(*args)

def test_an_error_in_the_source_comes_through():
    c = chunks((1//(2-i) for i in range(5)), 2)
    assert next(c) == [0,1]
    with pytest.raises(ZeroDivisionError): next(c)

def test_chunks_that_nobody_holds_are_let_go():
    class Item:
        alive = most = 0
        def __init__(self):
            Item.alive += 1
            Item.most = max(Item.most, Item.alive)
        def __del__(self): Item.alive -= 1
    for _ in chunks((Item() for _ in range(1000)), 10): pass
    assert Item.most < 100

@pytest.mark.parametrize('module', ['miniai.iterators', 'miniai.matrix'])
def test_imports_neither_torch_nor_numpy(module):
    code = f'import sys, {module}; print(*sys.modules)'
    imported = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert module in imported and not {'torch', 'numpy'} & set(imported)
