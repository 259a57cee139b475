"""Our tokenizer and the library's side by side, alternating, in one process.

    python benchmarks/tokenizer.py [--model FOLDER] [--rounds 15]

Texts one at a time and all in one call, as the pipeline calls it (padded, cut, tensors): with words that were met before, with empty
memories of words, and with words of random letters. The ratio is the library's processor time over ours, the best of each one's turns: above 1, ours
is faster. (On a machine that is busy with other things the best is to be trusted most.)"""
import os, random, time
from pathlib import Path

import torch, transformers
from fastcore.script import call_parse
from transformers import CLIPTokenizer

from miniai.core import embedded_model
from miniai.emoji import captions, random_rows
from miniai.tokenizer import BPETokenizer

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
os.environ['TOKENIZERS_PARALLELISM'] = 'false'


def seconds(f):
    "Processor time of `f`"
    start = time.process_time()
    f()
    return time.process_time() - start


def random_letters(n):
    "Texts of about as many letters as captions have, in words that nobody has met"
    rng = random.Random(0)
    return [''.join(rng.choice('abcdefghijklmnopqrstuvwxyz ') for _ in range(50)) for _ in range(n)]


@call_parse
def main(
    model:str=None, # Folder of a model; without it, the embedded one
    rounds:int=15, # How often each tokenizer does the work
):
    "Time our tokenizer and the library's"
    folder = Path(model or embedded_model())/'tokenizer'
    ours,library = BPETokenizer.from_pretrained(folder),CLIPTokenizer.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    prompts,_ = captions(random_rows(1000, generator), generator)
    odd = random_letters(len(prompts))
    assert ours(prompts+odd).input_ids==library(prompts+odd).input_ids
    call = dict(padding='max_length', truncation=True, max_length=library.model_max_length, return_tensors='pt')
    def forgetful(tokenizer, texts):
        ours._known.clear()
        library.backend_tokenizer.model._clear_cache()
        tokenizer(texts, **call)
    work = {'one at a time': [lambda t=t: [t([o], **call) for o in prompts] for t in (ours,library)],
            'all in one call': [lambda t=t: t(prompts, **call) for t in (ours,library)],
            'words not met before': [lambda t=t: forgetful(t, prompts) for t in (ours,library)],
            'random letters': [lambda t=t: forgetful(t, odd) for t in (ours,library)]}
    print(f'{len(ours):,} tokens, {len(prompts)} texts; microseconds a text')
    for name,pair in work.items():
        mine,theirs = (min(o)/len(prompts)*1e6 for o in zip(*[[seconds(f) for f in pair] for _ in range(rounds)]))
        print(f'{name:22} ours {mine:6.1f}   library {theirs:6.1f}   ratio {theirs/mine:.1f}')
