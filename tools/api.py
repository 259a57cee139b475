"How the documentation shows a function or class: its name, its one line, and a table of its parameters. `renderer` in settings.ini names it."
import inspect, re
from importlib import import_module
from operator import attrgetter
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer

empty = (inspect.Parameter.empty, type(None))

def kind(anno): return '' if anno in empty else re.sub(r'\b\w+\.', '', inspect.formatannotation(anno))
def value(x): return '' if x is inspect.Parameter.empty else getattr(x, '__name__', None) or repr(x)
def plain(s): return f'<code>{s}</code>'
def link(s): return plain(s) if s.startswith('_') else s and f'`{s}`' # nbdev makes a link of a name it knows
def cell(s): return re.sub(r'(`[^`]*`)|\|', lambda m: m[1] or r'\|', ' '.join(s.split())) # in code, a bar needs no backslash
def row(*cells): return '| ' + ' | '.join(map(cell, cells)) + ' |'

def exported(sym, name):
    "Where the package has `sym`, and the object there: of a dataclass, only the module's source holds the comments"
    for module,names in NbdevLookup().entries[get_config().lib_path.name]['syms'].items():
        if f'{module}.{name}' not in names: continue
        obj = attrgetter(name)(import_module(module))
        if obj.__doc__==sym.__doc__: return f'{module}.{name}',obj
    return name,sym

class Table(BasicMarkdownRenderer):
    "nbdev's heading, then a table where nbdev has the signature: the source stands above it"
    def __init__(self, sym, name=None, **kwargs):
        qualified = getattr(getattr(sym, 'fget', sym), '__qualname__', '')
        super().__init__(sym, name or (qualified if '.' in qualified else None), **kwargs)
        full,obj = exported(self.sym, self.nm)
        self.sym = getattr(obj, 'fget', obj)
        lookup = NbdevLookup()
        self.fn = self.nm if lookup[self.nm]==lookup[full] else full

    def _repr_markdown_(self):
        head = super()._repr_markdown_().partition('```python')[0].replace('#LNone', '')
        known = {k: v for k,v in docments(self.sym, full=True).items() if k not in ('self', 'cls')}
        given = {k: v for k,v in known.items() if v.docment or k not in ('args', 'kwargs', 'return')}
        rows = [row('**Returns**' if k=='return' else plain(k), link(kind(v.anno)), link(value(v.default)), self.own(v.docment or '', known)) for k,v in given.items()]
        table = [row('', 'Type', 'Default', 'Details'), row(*'--- --- -- --------'.split()), *rows] if rows else []
        return head + (f'*{self.own(self.docs, known)}*\n\n' if self.docs else '') + '\n'.join(table)

    def own(self, text, known):
        "A parameter, or a method of the same class, is not meant to lead to another page's function of that name"
        kin = vars(attrgetter(self.nm.rpartition('.')[0])(import_module(self.sym.__module__))) if '.' in self.nm else {}
        return re.sub(r'`(\w+)`', lambda m: plain(m[1]) if m[1] in {*known, *kin} else m[0], text)
