"Placing: names are found whatever their wording, attention is watched as it is, and the loss is 0 where each word keeps to its half."
import random
import pytest, torch
from hypothesis import given, settings, strategies as st
from transformers import CLIPTokenizer
from miniai.core import embedded_model
from miniai.emoji import *
from miniai.guidance import attention_maps
from miniai.placing import *
from miniai.unet import UNet2DConditionModel

tokenizer = CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer')
few = settings(deadline=None, derandomize=True, max_examples=30)

def seed(i): return torch.Generator().manual_seed(i)
def a_row(first, color=None, second=None, color2=None, axis=0):
    number = lambda name: things.index(name) if name else nothing
    shade = lambda name: colors.index(name) if name else own
    return [number(first), shade(color), number(second), shade(color2), axis, 1]

def small_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=8, block_out_channels=(16,32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24, attention_head_dim=4,
        down_block_types=('CrossAttnDownBlock2D','DownBlock2D'), up_block_types=('UpBlock2D','CrossAttnUpBlock2D'))

def inputs(n): return torch.randn(n, 4, 8, 8, generator=seed(0)),torch.tensor(500),torch.randn(n, 5, 24, generator=seed(1))

# Words

@few
@given(st.integers(0, 2**30))
def test_both_things_of_a_caption_are_found_where_they_are(i):
    row = random_rows(1, seed(i), pairs=1.)[0].tolist()
    text,said = caption(row, random.Random(i))
    a,b = find(text, *said[:2]),find(text, *said[2:4])
    assert min(a[1]-a[0], b[1]-b[0])>0 and (a[1]<=b[0] or b[1]<=a[0])
    for (low,high),thing,color in ((a, *row[:2]), (b, *row[2:4])):
        names = [f'{tint}{name}' for name in (things[thing], synonyms.get(things[thing]))
                 for tint in ([''] if color==own else [f'{o} ' for o in (colors[color], synonyms.get(colors[color]))])]
        assert text[low:high] in names

@pytest.mark.parametrize('text,name,color,found', [
    ('a unicorn above corn','corn',None,'corn'), ('a unicorn','corn',None,''), ('a palm tree above a tree','tree',None,'tree'), ('a palm tree','tree',None,''),
    ('a t-shirt and a cat','t-shirt',None,'t-shirt'), ('a cupcake left of a birthday cake','cake',None,'birthday cake'), ('a gray bunny','rabbit','grey','gray bunny'),
    ('a red cat left of a dog','dog','red',''), ('a purple sneaker','shoe','purple','purple sneaker'), ('a cat','dog',None,''), ('','cat',None,'')])
def test_find(text, name, color, found):
    low,high = find(text, *a_row(name, color)[:2])
    assert text[low:high]==found and (found in ('','tree','corn') or text.count(found)==1)
    if found in ('tree','corn'): assert low==text.rindex(found)

def test_what_is_not_there_has_no_place():
    assert find('a cat', nothing, own)==find('a cat', unsaid, unsaid)==(0,0)
    assert not named(['a cat',''], torch.tensor([[unsaid]*6, a_row('cat')]), tokenizer).any()

def test_a_word_of_several_tokens_and_its_tint_are_all_its_own():
    text,row = 'a green t-shirt to the right of french fries on white',torch.tensor([a_row('french fries', None, 't-shirt', 'green')])
    words = named([text], row, tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, padding='max_length', max_length=tokenizer.model_max_length).input_ids)
    of = lambda i: ''.join(token.replace('</w>', ' ') for token,here in zip(tokens, words[0,i]) if here)
    assert words.shape==(1,2,24) and of(0).split()==['french','fries'] and of(1).replace(' ', '')=='greent-shirt'
    assert not words.all(1).any() and not words[...,0].any() # No token is of both; the start token is of none

# Attention

def test_watched_is_what_attention_maps_records():
    unet,(x,t,e) = small_unet(),inputs(3)
    with torch.no_grad(), attention_maps(unet, 3) as maps, watched(unet) as shares: unet(x, t, e)
    recorded = list(maps.layers.values())
    assert len(shares)==len(recorded)>2
    for a,b in zip(shares, recorded): torch.testing.assert_close(a.mT, b.flatten(2))
    for a in shares: torch.testing.assert_close(a.sum(2), torch.ones(a.shape[:2]))

def test_watched_sees_the_same_in_the_library():
    from diffusers import UNet2DConditionModel as Library
    ours,(x,t,e) = small_unet(),inputs(2)
    theirs = Library(**{k:v for k,v in ours.config.items() if k[0]!='_'})
    theirs.load_state_dict(ours.state_dict())
    found = []
    for unet in (ours,theirs):
        with torch.no_grad(), watched(unet) as shares: unet(x, t, e)
        found.append(shares)
    for a,b in zip(*found, strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)

@pytest.mark.this_machine('bits')
def test_watching_changes_nothing_and_ends():
    unet,(x,t,e) = small_unet(),inputs(2)
    with torch.no_grad():
        before = unet(x, t, e).sample
        with watched(unet) as shares: during = unet(x, t, e).sample
        n = len(shares)
        with pytest.raises(ZeroDivisionError):
            with watched(unet): 1/0
        unet(x, t, e)
    assert torch.equal(before, during) and len(shares)==n
    assert not any(layer._forward_pre_hooks for layer in unet.modules())

def test_gradients_reach_queries_keys_and_the_text():
    unet,(x,t,e) = small_unet(),inputs(2)
    words = torch.zeros(2, 2, 5, dtype=torch.bool)
    words[:,0,1] = words[:,1,3] = True
    with watched(unet) as shares: unet(x, t, e.requires_grad_())
    misplaced(shares, words, torch.tensor([a_row('cat', None, 'dog')]*2)).backward()
    layers = [layer for name,layer in unet.named_modules() if name.endswith('attn2')]
    assert all(o.weight.grad.abs().max()>0 for layer in layers for o in (layer.to_q,layer.to_k)) and e.grad.abs().max()>0

# The loss

rows = random_rows(40, seed(0), pairs=1.)
words = torch.zeros(40, 2, 9, dtype=torch.bool)
words[:,0,2:4] = words[:,1,6] = True

@pytest.mark.parametrize('side', [2, 8, 16])
def test_halves_share_out_the_picture(side):
    masks = halves(torch.tensor([0,1]), side)
    assert torch.equal(masks.sum(2), torch.ones(2, side**2)) and masks.sum(1).eq(side**2/2).all()
    square = masks[...,0].unflatten(1, (side,side))
    assert square[0,:,0].all() and square[1,0].all() and torch.equal(square[0].T, square[1])

def test_halves_are_where_the_things_are():
    size,centre = layout(rows, seed(1))
    column,row = (centre//8).long().unbind(2) # Of 8×8 places
    first,second = (halves(rows[:,4], 8)[torch.arange(40), row[:,i]*8 + column[:,i], i] for i in range(2))
    assert first.all() and second.all()

@pytest.mark.parametrize('side', [2, 8])
def test_nothing_half_or_all_is_misplaced(side):
    right,turned = (o@words.float() for o in (halves(rows[:,4], side), halves(rows[:,4], side).flip(2)))
    even = torch.full_like(right, 1/9)
    found = [misplaced(shares, words, rows).item() for shares in ([right], [even], [turned], [right,turned])]
    assert found==pytest.approx([0, .25, 1, .5], abs=1e-5)

def test_only_pairs_with_an_arrangement_count_and_all_captions_divide():
    turned,said = halves(rows[:,4], 8).flip(2)@words.float(),rows.clone()
    said[:10,4] = unsaid      # "and"
    some = words.clone()
    some[10:20,1] = False     # One thing only
    some[20:25] = False       # An empty caption
    assert misplaced([turned], some, said).item()==pytest.approx(15/40)
    assert misplaced([turned], words&False, rows)==0

def test_parts_of_a_batch_average_to_the_whole():
    "So that several processes train as one does, with more pairs in the one's part than in the other's"
    shares,said = torch.rand(40, 64, 9, generator=seed(2)).softmax(-1),rows.clone()
    said[:15,4] = unsaid
    loss = lambda part: misplaced([shares[part]], words[part], said[part])
    torch.testing.assert_close((loss(slice(0,20)) + loss(slice(20,40)))/2, loss(slice(0,40)))

def test_a_few_steps_put_words_into_their_halves():
    scores = torch.zeros(40, 64, 9, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=.2)
    for _ in range(20):
        loss = misplaced([scores.softmax(-1)], words, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss<.025 # From .25
