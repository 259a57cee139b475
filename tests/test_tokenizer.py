"The tokenizer gives the library's ids for any text and any CLIP vocabulary, and takes the library's place in the pipeline."
import copy, json, os, pickle, random, shutil, sys, unicodedata
from pathlib import Path

import pytest, torch, transformers
from hypothesis import given, settings, strategies as st
from transformers import CLIPTokenizer

from miniai.core import embedded_model
from miniai.tokenizer import *

transformers.logging.set_verbosity_error()
embedded = embedded_model()/'tokenizer'


# ---- vocabularies: the embedded one, another, and other ways to write down the special tokens

other_texts = ["Schöne Grüße aus Köln und Ærø; l'été à la plage; ¿Dónde está el niño? " * 3,
               'Привет, мир! Как дела? Красные сапоги. ' * 3,
               '日本の長靴と日本の靴 한국어 장화 장화 ' * 3,
               'مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก ' * 3,
               '👢👢👢🏽👩‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿🇩🇪🇯🇵 ½²Ⅷ๒٣ ' * 3]
written = dict(single_word=False, lstrip=False, rstrip=False, normalized=True)
old_style = lambda text: dict(__type='AddedToken', content=text, **written)
sd15 = dict(bos_token=old_style('<|startoftext|>'), eos_token=old_style('<|endoftext|>'), unk_token=old_style('<|endoftext|>'),
            pad_token='<|endoftext|>', model_max_length=77)
sd21 = {**sd15, 'pad_token':'!'}
names = dict(bos_token='<|startoftext|>', eos_token='<|endoftext|>', unk_token='<|endoftext|>', pad_token='!')
ids = json.loads((embedded/'vocab.json').read_text(encoding='utf-8'))
as_listed = lambda *texts: {str(ids.get(t, len(ids)+i)): dict(content=t, special=True, **{**written, 'normalized':False}) for i,t in enumerate(texts)}
listed = as_listed('!', '<|startoftext|>', '<|endoftext|>')
added = {**sd15, 'pad_token':'<|endoftext|>', 'added_tokens_decoder':as_listed('<a>', '<longer>', '<b>', '<|startoftext|>', '<|endoftext|>')}

def embedded_with(folder, config, **changed):
    "The embedded vocabulary with another configuration"
    folder.mkdir()
    for name in 'vocab.json','merges.txt': shutil.copy(embedded/name, folder)
    (folder/'tokenizer_config.json').write_text(json.dumps(config))
    (folder/'special_tokens_map.json').write_text(json.dumps({k:config[k] for k in names} | changed))
    return folder

def in_one_file(folder):
    "Saved by transformers 5, with tokens added"
    theirs = CLIPTokenizer.from_pretrained(embedded)
    theirs.add_tokens(['<a>','<longer>','<b>'], special_tokens=True)
    theirs.save_pretrained(folder)
    return folder

makers = dict(
    embedded=lambda folder: embedded,
    other=lambda folder: train_bpe(other_texts, 700).save_pretrained(folder) or folder,
    sd15=lambda folder: embedded_with(folder, sd15),
    sd21=lambda folder: embedded_with(folder, sd21),
    mapped=lambda folder: embedded_with(folder, sd15, pad_token='!'),
    added=lambda folder: embedded_with(folder, added, pad_token='!'),
    in_one_file=in_one_file,
    listed=lambda folder: embedded_with(folder, {**names, 'added_tokens_decoder':listed, 'model_max_length':20}))
own = os.environ.get('MINIAI_MODEL')
if own and Path(own).is_dir(): makers['own'] = lambda folder: Path(own)/'tokenizer'

@pytest.fixture(scope='session')
def vocabularies(tmp_path_factory):
    root = tmp_path_factory.mktemp('vocabularies')
    folders = {maker: makers[maker](root/maker) for maker in makers}
    return {maker: (CLIPTokenizer.from_pretrained(f), BPETokenizer.from_pretrained(f)) for maker,f in folders.items()}

@pytest.fixture(params=makers)
def pair(request, vocabularies): return vocabularies[request.param]


# ---- any text: of all characters that this Python knows, but for accents newer than the library's

def newer_mark(c): return unicodedata.combining(c) and unicodedata.ucd_3_2_0.category(c)=='Cn'

known = [c for c in map(chr, range(sys.maxunicode+1)) if unicodedata.category(c) not in ('Cn','Cs') and not newer_mark(c)]
tricky = ["'s", "'T", "'re", "’s", "'", "it's", "THEY'VE", "2026", "½", "!", "!!", "...", "-", "t-shirt", "castle", "Castles", "a", "drawing of", "</w>",
          "<|endoftext|>", "<|startoftext|>", "<|", "|>", "<a>", "<b> <longer>", " ", "  ", "\t", "\r\n", "\x00", "\x1c\x1d\x1e\x1f", "\x85", "\xa0", "\u200b", "\u2028", "\u3000",
          "\ufeff", "\u180e", "\xad", "\u202e", "e\u0301", "é", "Σ", "ΟΔΟΣ", "ς", "İ", "ı", "ß", "ẞ", "ſ", "Ω", "K", "Å", "ﬁ", "가", "각", "ᄀ", "ᅡ", "ᆨ",
          "\u0344", "\u0f73", "क़", "\u0338=", "≠", "👢", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "#️⃣", "שלום", "مرحبا", "नमस्ते", "สวัสดี", "日本語", "한국어", "\U0010ffff", "\ue000", "\ufffd"]
pieces = st.one_of(st.sampled_from(tricky), st.text(st.sampled_from(known), max_size=3), st.text(st.sampled_from([c for c in known if unicodedata.combining(c)]), max_size=4),
                   st.text('aceglost ', max_size=8))
texts = st.lists(st.lists(pieces, max_size=10).map(''.join), min_size=25, max_size=25)

@pytest.mark.parametrize('maker', makers)
def test_the_ids_of_any_text_are_the_librarys(maker, vocabularies):
    (theirs,ours),seen = vocabularies[maker],[]
    @given(texts)
    @settings(max_examples=40 if maker=='embedded' else 15, deadline=None, derandomize=True, database=None)
    def check(batch):
        seen.extend(batch)
        assert ours(batch).input_ids == theirs(batch).input_ids
    check()
    assert len(seen) >= 15*25

def test_every_known_character_is_normalized_and_cut_as_the_library_does(vocabularies):
    backend,letters = vocabularies['embedded'][0].backend_tokenizer,bytes_to_unicode()
    characters = [c for c in known if not 0xf0000<=ord(c)] # after that, private use alone
    for start in range(0, len(characters), 512):
        some = characters[start:start+512]
        text = 'x'.join(f'{c}a{c}' for c in some)
        assert normalize(text) == backend.normalizer.normalize_str(text), hex(ord(some[0]))
        text = ' '.join(f'x{c}1' for c in some)
        theirs = [o for o,_ in backend.pre_tokenizer.pre_tokenize_str(text)]
        assert [''.join(letters[b] for b in o.encode()) for o in pre_tokenize(text)] == theirs, hex(ord(some[0]))

def test_long_words(pair):
    theirs,ours = pair
    for text in 'a'*300, 'castle'*100, '🏰'*100, '.'*300: assert ours(text).input_ids == theirs(text).input_ids


# ---- the same results in every respect

batches = ['a cat', '', ['a cat'], ['a cat','a purple castle on a grey background and more',''], ['<|endoftext|> a','b <|startoftext|>']]
options = [dict(padding=p, truncation=t, max_length=n) for p in (False,True,'longest','max_length') for t in (False,True) for n in (None,2,7,30)]

@pytest.mark.filterwarnings('ignore:.*max_length.*is ignored')
def test_padding_and_truncation(vocabularies):
    theirs,ours = vocabularies['embedded']
    for text in batches:
        for kwargs in options:
            expected,found = theirs(text, **kwargs),ours(text, **kwargs)
            assert dict(found) == dict(expected) and found.input_ids is found['input_ids'], (text, kwargs)
    call = dict(padding='max_length', truncation=True, max_length=9, return_tensors='pt')
    for k,v in theirs(batches[3], **call).items(): assert torch.equal(ours(batches[3], **call)[k], v)
    with pytest.raises(KeyError, match='max_len'): ours('a cat', padding='max_len')

def test_lengths_ids_and_names_of_special_tokens(pair):
    theirs,ours = pair
    assert len(ours) == len(theirs) and ours.model_max_length == theirs.model_max_length and ours.vocab == theirs.get_vocab()
    assert ours.added_tokens_encoder == theirs.added_tokens_encoder
    for role in 'bos','eos','unk','pad':
        for what in '_token','_token_id': assert getattr(ours, role+what) == getattr(theirs, role+what)

def test_tokens_and_texts_of_ids(pair):
    theirs,ours = pair
    @given(st.lists(st.sampled_from(sorted(ours.tokens)), max_size=20), st.booleans())
    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    def check(ids, skip):
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    check()
    for text in batches[3] + tricky: assert ours.tokenize(text) == theirs.tokenize(text)
    ids = ours(batches[3], padding=True, return_tensors='pt').input_ids
    assert ours.batch_decode(ids) == theirs.batch_decode(ids) and ours.decode(ids[0]) == theirs.decode(ids[0])

def test_a_result_moves_to_a_device_and_unpacks():
    batch = BPETokenizer.from_pretrained(embedded)(['a cat'], return_tensors='pt').to('cpu')
    assert isinstance(batch, TokenBatch) and dict(**batch).keys() == {'input_ids','attention_mask'}
    assert batch.to('meta').input_ids.device.type == 'meta'

def test_it_can_be_copied_and_sent_to_other_processes():
    ours = BPETokenizer.from_pretrained(embedded)
    expected = ours.encode('a castleless robot')
    for again in copy.deepcopy(ours),pickle.loads(pickle.dumps(ours)): assert again.encode('a castleless robot') == expected


# ---- in the pipeline

@pytest.mark.this_machine('bits')
def test_our_pipeline_and_the_librarys_draw_the_same_picture_with_it(sd):
    from diffusers import StableDiffusionPipeline
    from miniai.pipeline import StableDiffusion
    images,run = [],dict(negative_prompt=['a cat']*2, num_inference_steps=2)
    prompts = ["a drawing of a Red castle, it's 🏰 城", 'a red star']
    for tokenizer in sd.tokenizer,BPETokenizer.from_pretrained(embedded_model(), subfolder='tokenizer'):
        parts = {**vars(sd), 'tokenizer':tokenizer}
        images.append(StableDiffusion(**parts)(prompts, seed=3, progress=False, **run))
        library = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        library.set_progress_bar_config(disable=True)
        images.append(library([prompts[0], 'a red star '*20], generator=torch.Generator().manual_seed(0), **run).images)
    for a,b in zip(images[:2], images[2:]): assert [o.tobytes() for o in a] == [o.tobytes() for o in b]


# ---- training and saving

def test_training_does_not_depend_on_order_or_chance():
    texts = other_texts*2
    first = train_bpe(texts, 600)
    random.Random(0).shuffle(texts)
    assert train_bpe(texts, 600).vocab == first.vocab and train_bpe(iter(texts), 600).ranks == first.ranks

def test_training_stops_when_all_words_are_whole():
    assert len(train_bpe(['aaaa'], 10**6)) == 512 + len(['aa','aa</w>','aaaa</w>']) + 2

@pytest.fixture(scope='module')
def captions():
    from miniai.emoji import captions, random_rows
    return captions(random_rows(2000, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0))[0]

def test_training_is_the_librarys(captions, tmp_path):
    "The library settles ties by chance: merges may change places, no token and no cut changes"
    ours,theirs = train_bpe(captions, 5000),CLIPTokenizer().train_new_from_iterator(captions, 5000, show_progress=False)
    merged = {''.join(pair) for pair in json.loads(theirs.backend_tokenizer.to_str())['model']['merges']}
    assert {''.join(pair) for pair in ours.ranks} == merged
    assert all(ours.tokenize(o) == theirs.tokenize(o) for o in captions[::10])

def test_every_word_of_a_caption_is_one_token_of_the_embedded_vocabulary(captions):
    "That's where training stops: when all words are whole"
    words = {word for text in captions for word in pre_tokenize(text)}
    assert len(words)>150 and words <= {token.removesuffix('</w>') for token in ids if token.endswith('</w>')}

def test_saved_and_loaded_it_is_the_same(pair, tmp_path):
    theirs,ours = pair
    ours.save_pretrained(tmp_path/'saved')
    for again in BPETokenizer.from_pretrained(tmp_path/'saved'),CLIPTokenizer.from_pretrained(tmp_path/'saved'):
        assert again(tricky + other_texts).input_ids == ours(tricky + other_texts).input_ids
        assert again.pad_token_id == ours.pad_token_id and again.model_max_length == ours.model_max_length

def test_tokens_of_ones_own_are_saved(tmp_path):
    ours = BPETokenizer(json.loads((embedded/'vocab.json').read_text(encoding='utf-8')), [], special=['<cat-toy>','<longer-one>'])
    ours.save_pretrained(tmp_path)
    assert ours.encode('<cat-toy>')[1:-1] == [len(ids)]
    for again in BPETokenizer,CLIPTokenizer: assert again.from_pretrained(tmp_path)('a <cat-toy> <longer-one>').input_ids == ours.encode('a <cat-toy> <longer-one>')

def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='tokenizer_config.json'): BPETokenizer.from_pretrained(tmp_path)


# ---- the picture

def test_the_picture_shows_every_token_once_and_nothing_as_markup(pair):
    theirs,ours = pair
    for text in ["<script>alert('a')</script>", 'a & b', '🏰 castles', '\u202e e\u0301 \u0301', 'שלום', '']:
        html = show_tokens(text, ours).data
        assert html == show_tokens(text, theirs).data
        assert html.count('<sub') == len(ours.encode(text)) and '<script' not in html and '\u202e' not in html

def test_the_picture_strikes_out_what_is_cut():
    ours = BPETokenizer.from_pretrained(embedded)
    n = ours.model_max_length-2
    assert 'line-through' not in show_tokens('a '*n, ours).data
    assert show_tokens('a '*(n+8), ours).data.count('line-through') == 8
