"The tokenizer gives the library's ids for any text and any CLIP vocabulary, and takes the library's place in the pipeline."
import copy, json, os, pickle, random, shutil, sys, unicodedata
from pathlib import Path

import numpy as np, pytest, torch, transformers
from hypothesis import given, settings, strategies as st
from transformers import CLIPTokenizer

from miniai.core import embedded_model
from miniai.tokenizer import *
from miniai.tokenizer import _newer, _range, _tints

transformers.logging.set_verbosity_error()
embedded = embedded_model()/'tokenizer'
characters = [chr(i) for i in range(sys.maxunicode+1) if not 0xd800<=i<0xe000]


# ---- vocabularies: the embedded one, others, and other ways to write down the special tokens

other_texts = [Path(__file__).read_text(encoding='utf-8'),
               "Schöne Grüße aus Köln und Ærø; l'été à la plage; ¿Dónde está el niño? " * 3,
               'Привет, мир! Как дела? Красные сапоги. ' * 3,
               '日本の長靴と日本の靴 한국어 장화 장화 ' * 3,
               'مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก ' * 3,
               '👢👢👢🏽👩‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿🇩🇪🇯🇵 ½²Ⅷ๒٣ ' * 3]
written = dict(single_word=False, lstrip=False, rstrip=False, normalized=True)
old_style = lambda text: dict(__type='AddedToken', content=text, **written)
first_sd = dict(bos_token=old_style('<|startoftext|>'), eos_token=old_style('<|endoftext|>'), unk_token=old_style('<|endoftext|>'),
                pad_token='<|endoftext|>', model_max_length=77)
second_sd = {**first_sd, 'pad_token':'!'}
names = dict(bos_token='<|startoftext|>', eos_token='<|endoftext|>', unk_token='<|endoftext|>', pad_token='<|endoftext|>')
decoder = {'608':dict(content='<|startoftext|>', special=True, **written),
           '609':dict(content='<|endoftext|>', special=True, **{**written, 'normalized':False})}
capital = dict(content='<My  Cat>', special=False, **written)

def embedded_with(folder, **files):
    "The embedded vocabulary with other files beside it"
    folder.mkdir()
    for name in 'vocab.json','merges.txt': shutil.copy(embedded/name, folder)
    for name,content in files.items(): (folder/f'{name}.json').write_text(json.dumps(content))
    return folder

def make_whole(folder):
    CLIPTokenizer.from_pretrained(embedded).save_pretrained(folder)
    assert (folder/'tokenizer.json').is_file() and not (folder/'vocab.json').exists()
    return folder

def make_lacking(folder):
    "The library's own training leaves out letters that no word ended in"
    CLIPTokenizer.from_pretrained(embedded).train_new_from_iterator([other_texts], 900, show_progress=False).save_pretrained(folder)
    return folder

def make_shuffled(folder):
    "Merges in an order that no training gives"
    train_bpe(other_texts[1:], 900).save_pretrained(folder)
    lines = (folder/'merges.txt').read_text(encoding='utf-8').split('\n')[1:-1]
    random.Random(1).shuffle(lines)
    (folder/'merges.txt').write_text('\n'.join(['#version: 0.2', *lines]) + '\n', encoding='utf-8')
    return folder

makers = dict(
    embedded=lambda folder: embedded,
    other=lambda folder: train_bpe(other_texts, 1500).save_pretrained(folder) and folder,
    whole=make_whole, lacking=make_lacking, shuffled=make_shuffled,
    bare=lambda folder: embedded_with(folder),
    first_sd=lambda folder: embedded_with(folder, tokenizer_config=first_sd, special_tokens_map={k:first_sd[k] for k in names}),
    second_sd=lambda folder: embedded_with(folder, tokenizer_config=second_sd, special_tokens_map={k:second_sd[k] for k in names}),
    decoder=lambda folder: embedded_with(folder, tokenizer_config={**names, 'added_tokens_decoder':decoder, 'model_max_length':20}),
    added=lambda folder: embedded_with(folder, tokenizer_config=names, added_tokens={'<red>':610, 'Ünder':611}),
    more=lambda folder: embedded_with(folder, tokenizer_config={**names, 'added_tokens_decoder':{**decoder, '610':capital},
                                                                'additional_special_tokens':['<x>','<x>>']}))
own = os.environ.get('MINIAI_MODEL')
if own and Path(own).is_dir(): makers['own'] = lambda folder: own

def load(maker, folder):
    folder = makers[maker](folder)
    theirs = CLIPTokenizer.from_pretrained(folder, subfolder='tokenizer') if maker=='own' else CLIPTokenizer.from_pretrained(folder)
    return theirs,BPETokenizer.from_pretrained(folder)

@pytest.fixture(scope='session')
def vocabularies(tmp_path_factory):
    root = tmp_path_factory.mktemp('vocabularies')
    return {maker:load(maker, root/maker) for maker in makers}

@pytest.fixture(params=makers)
def pair(request, vocabularies): return vocabularies[request.param]


# ---- any text

marks = [c for c in characters if unicodedata.combining(c)]
newer_marks = [chr(i) for a,b in map(_range, _newer['marks'].split()) for i in range(a, min(b, a+40)+1) if not 0xd800<=i<0xe000]
tricky = ["'s", "'T", "'re", "’s", "'", "it's", "THEY'VE", "2026", "½", "!", "!!", "...", "-", "t-shirt", "boot", "Boots", "a", "photo of", "</w>",
          "<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "<|ENDOFTEXT|>", "<|startofTEXT|>", "<|", "|>",
          "<red>", "ünder", "u\u0308nder", "Ünder", "<My  Cat>", "<my cat>", "<MY\tCAT>", "<x>", "<x>>",
          " ", "  ", "\t", "\r\n", "\x00", "\x1c\x1d\x1e\x1f", "\x85", "\xa0", "\u200b", "\u2028", "\u3000", "\ufeff", "\u180e", "\xad", "\u202e",
          "e\u0301", "é", "Σ", "ΟΔΟΣ", "ς", "İ", "ı", "ß", "ẞ", "ſ", "Ω", "K", "Å", "ﬁ", "가", "각", "ᄀ", "ᅡ", "ᆨ", "\u0344", "\u0f73", "क़", "\u0338=", "≠",
          "👢", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "#️⃣", "שלום", "مرحبا", "नमस्ते", "สวัสดี", "日本語", "한국어", "\U0010ffff", "\ue000", "\ufffd"]
pieces = st.one_of(st.sampled_from(tricky), st.sampled_from(tricky), st.text(max_size=3), st.sampled_from(marks), st.sampled_from(newer_marks),
                   st.text('abcdeot ', max_size=8), st.integers(1, 40).map(lambda n: ' '*n))
texts = st.lists(st.lists(pieces, max_size=10).map(''.join), min_size=25, max_size=25)

many = ('embedded','other','own')

@pytest.mark.parametrize('maker', makers)
def test_the_ids_of_any_text_are_the_librarys(maker, vocabularies):
    "More than ten thousand texts with each of the main vocabularies, 1,500 with each of the odd ones"
    theirs,ours = vocabularies[maker]
    examples,seen = 420 if maker in many else 60,0
    @given(texts)
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    def check(batch):
        nonlocal seen
        seen += len(batch)
        assert ours(batch).input_ids == theirs(batch).input_ids
    check()
    assert seen >= (10_000 if maker in many else 1_500)

def test_every_character_is_made_uniform_as_the_library_does(vocabularies):
    theirs = vocabularies['embedded'][0].backend_tokenizer.normalizer.normalize_str
    for start in range(0, len(characters), 256):
        text = 'x'.join(f'{c}a{c}' for c in characters[start:start+256])
        assert uniform(text) == theirs(text), hex(start)

def test_every_character_is_cut_into_words_as_the_library_does(vocabularies):
    theirs,letters = vocabularies['embedded'][0].backend_tokenizer.pre_tokenizer.pre_tokenize_str,bytes_to_unicode()
    for start in range(0, len(characters), 256):
        text = ' '.join(f'x{c}1' for c in characters[start:start+256])
        assert [''.join(letters[b] for b in o.encode()) for o in split_words(text)] == [o for o,_ in theirs(text)], hex(start)

def test_combining_marks_in_any_order(vocabularies):
    "What the library's edition of Unicode does not know may neither move nor combine, all else must"
    theirs = vocabularies['embedded'][0].backend_tokenizer.normalizer.normalize_str
    rng = random.Random(0)
    for _ in range(20_000):
        text = ''.join(rng.choice(rng.choice([marks, newer_marks, 'aeουক가각'])) for _ in range(rng.randrange(2, 7)))
        assert uniform(text) == theirs(text), ascii(text)

def test_long_words_are_no_trap(pair):
    theirs,ours = pair
    rng = random.Random(0)
    for text in 'a'*3001, 'boot'*1000, '👢'*1000, '.'*3000, ''.join(rng.choice('photefbluwnd') for _ in range(5000)):
        assert ours(text).input_ids == theirs(text).input_ids

def test_the_memory_of_words_does_not_grow_without_end(monkeypatch):
    ours = BPETokenizer.from_pretrained(embedded)
    for i in range(70_000): ours._word_ids(f'{i}')
    assert len(ours._known) <= 2**16
    ours._word_ids('a'*1000)
    assert all(len(o) < 256 for o in ours._known)


# ---- the same results in every respect

batches = ['a bag', '', ['a bag'], ['a bag','a red ankle boot on a blue background and more',''], ['<|endoftext|> a','b <|startoftext|>'],
           ['a photo of a bag '*20]]
options = [dict(padding=p, truncation=t, max_length=n, return_tensors=r) for p in (False,True,'longest','max_length','do_not_pad')
           for t in (None,False,True,'longest_first','do_not_truncate') for n in (None,2,7,30) for r in (None,'pt','np')]

@pytest.mark.filterwarnings('ignore:.*max_length.*is ignored')
def test_padding_truncation_and_kind_of_result(vocabularies):
    theirs,ours = vocabularies['embedded']
    ragged = 0
    for text in batches:
        for kwargs in options:
            try: expected = theirs(text, **kwargs)
            except ValueError: expected = None
            if expected is None or getattr(expected['input_ids'], 'dtype', None)==object: # an array of lists, which nobody can use
                with pytest.raises(ValueError, match='one tensor'): ours(text, **kwargs)
                ragged += 1
                continue
            found = ours(text, **kwargs)
            assert list(found) == list(expected)
            for k,v in expected.items():
                assert type(found[k]) is type(v) and getattr(found, k) is found[k], kwargs
                same = found[k]==v if isinstance(v, list) else np.array_equal(found[k], v) and found[k].dtype==v.dtype
                assert same, (text, kwargs)
    assert ragged > 20

def test_lengths_ids_and_names_of_special_tokens(pair):
    theirs,ours = pair
    assert ours.added_tokens_encoder == theirs.added_tokens_encoder and len(ours) == len(theirs)
    assert ours.model_max_length == theirs.model_max_length or min(ours.model_max_length, theirs.model_max_length) > 10**29
    for role in 'bos','eos','unk','pad':
        for what in '_token','_token_id': assert getattr(ours, role+what) == getattr(theirs, role+what)
    assert ours.vocab == theirs.get_vocab()

@pytest.mark.filterwarnings('ignore:.*max_length.*is ignored')
def test_tokens_and_texts_of_ids(pair):
    theirs,ours = pair
    @given(st.lists(st.sampled_from(sorted(ours.tokens)), max_size=20), st.booleans())
    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    def check(ids, skip):
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    check()
    for text in batches[3] + tricky: assert ours.tokenize(text) == theirs.tokenize(text)
    ids = ours(batches[3], padding=True, return_tensors='pt').input_ids
    assert ours.decode(ids) == theirs.decode(ids) and ours.decode(ids[0]) == theirs.decode(ids[0]) and ours.decode(5) == theirs.decode(5)

@given(st.text(st.characters(codec='ascii', categories=['Ll'])))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_there_and_back(text):
    ours = BPETokenizer.from_pretrained(embedded)
    assert ours.decode(ours.encode(text), skip_special_tokens=True) == text

def test_a_result_moves_to_a_device_and_unpacks():
    batch = BPETokenizer.from_pretrained(embedded)(['a bag'], return_tensors='pt').to('cpu')
    assert isinstance(batch, TokenBatch) and dict(**batch).keys() == {'input_ids','attention_mask'}
    assert batch.to('meta').input_ids.device.type == 'meta'
    with pytest.raises(AttributeError): batch.offsets

def test_it_can_be_copied_and_sent_to_other_processes():
    ours = BPETokenizer.from_pretrained(embedded)
    expected = ours.encode('a bootless robot')
    for again in copy.deepcopy(ours),pickle.loads(pickle.dumps(ours)): assert again.encode('a bootless robot') == expected


# ---- in the pipeline

def test_it_draws_the_same_picture_bit_for_bit():
    from miniai.pipeline import StableDiffusion
    sd = StableDiffusion.from_pretrained(embedded_model(), device='cpu')
    parts = {k:v for k,v in vars(sd).items() if k!='tokenizer'}
    mine = StableDiffusion(tokenizer=BPETokenizer.from_pretrained(embedded_model()), **parts)
    prompts = ['a photo of a Red ankle boot, on a blue background', "it's 👢 長靴"]
    run = dict(negative_prompt='a bag', seed=3, num_inference_steps=4, progress=False)
    assert [o.tobytes() for o in mine(prompts, **run)] == [o.tobytes() for o in sd(prompts, **run)]
    messages = []
    for pipeline in sd,mine:
        with pytest.warns(UserWarning, match='longer than 24 tokens') as caught: pipeline('a bag on a boot '*20, **run)
        messages.append([str(o.message) for o in caught])
    assert messages[0] == messages[1]

def test_the_librarys_own_pipeline_takes_it():
    from diffusers import StableDiffusionPipeline
    from miniai.pipeline import StableDiffusion
    sd = StableDiffusion.from_pretrained(embedded_model(), device='cpu')
    images = []
    for tokenizer in sd.tokenizer,BPETokenizer.from_pretrained(embedded_model()):
        pipeline = StableDiffusionPipeline(**{**vars(sd), 'tokenizer':tokenizer}, safety_checker=None, feature_extractor=None,
                                           requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        images.append(pipeline('a red bag '*20, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0].tobytes())
    assert images[0] == images[1]


# ---- training and saving

def test_training_does_not_depend_on_order_or_chance():
    texts = other_texts*2
    first = train_bpe(texts, 700)
    random.Random(0).shuffle(texts)
    assert train_bpe(texts, 700).vocab == first.vocab and train_bpe(iter(texts), 700).merges == first.merges

def test_training_merges_the_most_frequent_pair():
    "Beside the plain algorithm, which counts all pairs anew"
    words = [w for text in other_texts[1:] for w in split_words(uniform(text))]
    ours = train_bpe(other_texts[1:], 700)
    letters = list(bytes_to_unicode().values())
    tokens = letters + [o+'</w>' for o in letters]
    cut = [[*(bytes_to_unicode()[b] for b in w.encode())] for w in words]
    cut = [[*o[:-1], o[-1]+'</w>'] for o in cut]
    for a,b in sorted(ours.merges, key=ours.merges.get):
        pairs = [p for o in cut for p in zip(o, o[1:])]
        count = {p:pairs.count(p) for p in set(pairs)} if len(tokens) in (512,513,560,650,697) else None
        pair = ours.tokens[a],ours.tokens[b]
        if count: assert pair == min(count, key=lambda p: (-count[p], tokens.index(p[0]), tokens.index(p[1])))
        if ''.join(pair) not in tokens: tokens.append(''.join(pair))
        for o in cut:
            i = 0
            while i < len(o)-1:
                if (o[i],o[i+1]) == pair: o[i:i+2] = [''.join(pair)]
                i += 1
    assert tokens == list(ours.vocab)[:-2] and len(tokens) == 698
    assert all(ours.tokenize(w) == o for w,o in zip(words, cut))

def test_the_captions_make_the_embedded_vocabulary():
    "The library settles ties by chance: two merges may change places, no token and no cut changes"
    from miniai.training import all_captions
    learned,shipped = train_bpe(all_captions, 5000, model_max_length=24),BPETokenizer.from_pretrained(embedded)
    assert learned.vocab.keys() == shipped.vocab.keys() and learned.model_max_length == shipped.model_max_length
    name = lambda t: [f'{t.tokens[a]} {t.tokens[b]}' for a,b in sorted(t.merges, key=t.merges.get)]
    assert [(a,b) for a,b in zip(name(learned), name(shipped)) if a!=b] == [('a g</w>','a t</w>'),('a t</w>','a g</w>')]
    assert all(learned.tokenize(o) == shipped.tokenize(o) for o in all_captions + other_texts + tricky)

def test_what_was_measured_is_this_vocabulary():
    from miniai.core import measured
    found = measured('tokenizer')['training']
    words = [' '.join([word]*n) for word,n in found['words'].items()]
    assert train_bpe(words, 5000).vocab.keys() == BPETokenizer.from_pretrained(embedded).vocab.keys() and found['same_tokens']

def test_saved_and_loaded_it_is_the_same(pair, tmp_path):
    theirs,ours = pair
    ours.save_pretrained(tmp_path/'saved')
    assert sorted(p.name for p in (tmp_path/'saved').iterdir()) == ['merges.txt','tokenizer_config.json','vocab.json']
    for again in BPETokenizer.from_pretrained(tmp_path/'saved'),CLIPTokenizer.from_pretrained(tmp_path/'saved'):
        assert again(tricky + other_texts).input_ids == ours(tricky + other_texts).input_ids
        assert again.pad_token_id == ours.pad_token_id and again.model_max_length == ours.model_max_length


# ---- bad input

@pytest.mark.parametrize('text,error,says', [(None,TypeError,'None'), (3,TypeError,'3'), ([],TypeError,'at least one'), (['a',None],TypeError,'NoneType'),
                                             ([['a']],TypeError,'list'), (b'a',TypeError,"b'a'"), ('ab\ud83d',ValueError,'position 2'), (['a','\udc00'],ValueError,'position 0')])
def test_what_is_no_text_is_named(text, error, says):
    with pytest.raises(error, match=says): BPETokenizer.from_pretrained(embedded)(text)

@pytest.mark.parametrize('kwargs,says', [(dict(padding='max'),'max_length'), (dict(truncation='yes'),'longest_first'), (dict(max_length=1),'from 2'),
                                         (dict(max_length=2.5),'2.5'), (dict(return_tensors='tf'),"'pt'")])
def test_options_that_there_are_not_are_named(kwargs, says):
    with pytest.raises(ValueError, match=says): BPETokenizer.from_pretrained(embedded)('a', **kwargs)

def test_padding_to_no_length_is_refused(tmp_path):
    ours = BPETokenizer.from_pretrained(embedded_with(tmp_path/'bare'))
    with pytest.raises(ValueError, match='do not say how long'): ours('a', padding='max_length')
    assert len(ours('a', padding='max_length', max_length=9).input_ids) == 9

def broken(folder, name, text):
    embedded_with(folder)
    (folder/name).write_text(text, encoding='utf-8')
    return folder

@pytest.mark.parametrize('name,text,says', [
    ('vocab.json', '{"a":', 'vocab.json is not JSON'), ('vocab.json', '["a"]', 'dictionary'),
    ('vocab.json', '{"a</w>":"1"}', 'whole number'), ('vocab.json', '{"a":1}', '</w>'),
    ('merges.txt', '#version: 0.2\ng r\na\n', 'line 3'), ('merges.txt', 'q q\n', 'qq'), ('tokenizer_config.json', '[]', 'dictionary'),
    ('tokenizer_config.json', json.dumps(dict(bos_token=dict(content='<|startoftext|>', lstrip=True))), 'lstrip'),
    ('tokenizer.json', '{"model":{"type":"Unigram"}}', 'Unigram')])
def test_files_that_are_no_tokenizer_are_named(tmp_path, name, text, says):
    with pytest.raises(ValueError, match=says): BPETokenizer.from_pretrained(broken(tmp_path/'broken', name, text))

def test_a_folder_without_the_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder'): BPETokenizer.from_pretrained(tmp_path/'missing')
    with pytest.raises(FileNotFoundError, match='holds nothing'): BPETokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match='snapshot_download'): BPETokenizer.from_pretrained('openai/clip-vit-large-patch14')

@pytest.mark.parametrize('texts,size,error', [('a',600,TypeError), (['a'],513,ValueError), (['a'],600.,ValueError), ([' '],600,ValueError),
                                              ([],600,ValueError), ([3],600,TypeError), (['\ud800'],600,ValueError)])
def test_what_cannot_be_learned_from_is_refused(texts, size, error):
    with pytest.raises(error): train_bpe(texts, size)

def test_unknown_ids_are_named():
    with pytest.raises(ValueError, match='id 610.*up to id 609'): BPETokenizer.from_pretrained(embedded).decode([610])


# ---- the picture

def luminance(color):
    parts = [int(color[i:i+2], 16)/255 for i in (1,3,5)]
    return sum(w*(c/12.92 if c<=.03928 else ((c+.055)/1.055)**2.4) for w,c in zip((.2126,.7152,.0722), parts))

def test_letters_stand_out_from_every_tint():
    assert all((luminance(o)+.05)/.05 > 7 for o in _tints) and 1.05/(luminance('#333333')+.05) > 7

def test_the_picture_shows_every_token_once_and_nothing_as_markup(pair):
    theirs,ours = pair
    for text in ["<script>alert('a')</script>", 'a & b', '👢 boots', '\u202e e\u0301 \u0301', 'שלום', '']:
        html = show_tokens(text, ours)._repr_html_()
        assert html == show_tokens(text, theirs)._repr_html_()
        assert html.count('<sub') == len(ours.encode(text)) and '<script' not in html and '\u202e' not in html

def test_the_picture_strikes_out_what_is_cut():
    ours = BPETokenizer.from_pretrained(embedded)
    fits,cut = 'a '*22,'a '*30
    assert 'line-through' not in show_tokens(fits, ours).html
    assert show_tokens(cut, ours).html.count('line-through') == 8
