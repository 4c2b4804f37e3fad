// Code, line by line: a line's tokens depend on the line and on what was open before it, so a growing block is never
// read twice. highlightLine(language, line, state) -> {tokens: [[kind, text], ...], state}; kinds: "", k(eyword),
// s(tring), c(omment), n(umber), f(unction), t(ype or tag), a(ttribute or key), i(nserted), d(eleted).

const words = (text) => new Set(text.split(" "));

const C_LIKE = { line: ["//"], block: ["/*", "*/"], quotes: ['"', "'"] };
const LANGUAGES = {
  python: {
    line: ["#"], quotes: ['"', "'"], triple: true, prefixes: true,
    keywords: words("and as assert async await break case class continue def del elif else except finally for " +
      "from global if import in is lambda match nonlocal not or pass raise return try while with yield"),
    constants: words("None True False self cls"),
  },
  javascript: {
    ...C_LIKE, template: true,
    keywords: words("abstract as async await break case catch class const continue debugger declare default " +
      "delete do else enum export extends finally for from function get if implements import in instanceof " +
      "interface keyof let namespace new of private protected public readonly return satisfies set static " +
      "super switch this throw try type typeof var void while with yield"),
    constants: words("null undefined true false NaN Infinity string number boolean any unknown never"),
  },
  json: { line: ["//"], quotes: ['"'], keys: true, keywords: words(""), constants: words("null true false") },
  shell: {
    line: ["#"], quotes: ['"', "'"], hashNeedsSpace: true, variables: true,
    keywords: words("if then else elif fi for while until do done case esac in function select time return " +
      "export local readonly set unset source sudo cd echo exit trap exec eval"),
    constants: words("true false"),
  },
  c: {
    ...C_LIKE, preprocessor: true,
    keywords: words("alignas alignof auto break case catch class concept const consteval constexpr constinit " +
      "const_cast continue co_await co_return co_yield decltype default delete do dynamic_cast else enum " +
      "explicit export extern final for friend goto if inline mutable namespace new noexcept operator " +
      "override private protected public register reinterpret_cast requires return sizeof static " +
      "static_assert static_cast struct switch template this thread_local throw try typedef typename union " +
      "using virtual volatile while var internal string foreach is async await get set sealed abstract " +
      "readonly params ref out"),
    constants: words("true false nullptr NULL null bool char char8_t double float int int8_t int16_t int32_t " +
      "int64_t long short signed size_t uint8_t uint16_t uint32_t uint64_t unsigned void std"),
  },
  rust: {
    ...C_LIKE, quotes: ['"'], chars: true,
    keywords: words("as async await break const continue crate dyn else enum extern fn for if impl in let " +
      "loop match mod move mut pub ref return static struct super trait type unsafe use where while"),
    constants: words("true false self Self None Some Ok Err bool char f32 f64 i8 i16 i32 i64 i128 isize str " +
      "String u8 u16 u32 u64 u128 usize Vec Option Result Box"),
  },
  go: {
    ...C_LIKE, raw: true,
    keywords: words("break case chan const continue default defer else fallthrough for func go goto if import " +
      "interface map package range return select struct switch type var"),
    constants: words("true false nil iota bool byte error float32 float64 int int8 int16 int32 int64 rune " +
      "string uint uint8 uint16 uint32 uint64 any"),
  },
  java: {
    ...C_LIKE,
    keywords: words("abstract assert break case catch class const continue default do else enum extends final " +
      "finally for goto if implements import instanceof interface native new package private protected public " +
      "record return sealed static strictfp super switch synchronized this throw throws transient try var " +
      "volatile while yield fun val when object companion data suspend override internal open lateinit func " +
      "let guard struct protocol"),
    constants: words("true false null boolean byte char double float int long short void String Integer List " +
      "Map"),
  },
  sql: {
    line: ["--"], block: ["/*", "*/"], quotes: ["'", '"'], anyCase: true,
    keywords: words("add all alter and as asc begin between by case check column commit constraint create " +
      "cross database default delete desc distinct drop else end exists explain foreign from full group " +
      "having if in index inner insert into is join key left like limit not null offset on or order outer " +
      "over partition primary references returning right rollback row rows select set table then transaction " +
      "trigger union unique update using values view when where with"),
    constants: words("true false int integer bigint text varchar char numeric real date timestamp boolean " +
      "serial"),
  },
  css: {
    block: ["/*", "*/"], quotes: ['"', "'"], css: true, keywords: words(""), constants: words(""),
  },
  yaml: {
    line: ["#"], quotes: ['"', "'"], hashNeedsSpace: true, yamlKeys: true,
    keywords: words(""), constants: words("true false null yes no on off True False"),
  },
  ruby: {
    line: ["#"], quotes: ['"', "'"],
    keywords: words("alias and begin break case class def defined do else elsif end ensure for if in module " +
      "next not or redo rescue retry return self super then undef unless until when while yield require " +
      "attr_accessor function local repeat"),
    constants: words("nil true false"),
  },
  markup: { markup: true },
  diff: { diff: true },
};
const NAMES = {
  py: "python", python3: "python", pycon: "python", js: "javascript", jsx: "javascript", ts: "javascript",
  tsx: "javascript", typescript: "javascript", mjs: "javascript", node: "javascript", jsonc: "json", json5: "json",
  jsonl: "json", sh: "shell", bash: "shell", zsh: "shell", console: "shell", dockerfile: "shell", makefile: "shell",
  powershell: "shell", "c++": "c", cpp: "c", cc: "c", h: "c", hpp: "c", cuda: "c", cu: "c", cs: "c", csharp: "c",
  "c#": "c", glsl: "c", rs: "rust", golang: "go", kotlin: "java", kt: "java", swift: "java", scala: "java",
  dart: "java", mysql: "sql", postgresql: "sql", postgres: "sql", sqlite: "sql", scss: "css", less: "css", yml: "yaml",
  toml: "yaml", ini: "yaml", rb: "ruby", lua: "ruby", html: "markup", xml: "markup", svg: "markup", vue: "markup",
  patch: "diff",
};

export function languageOf(name) {
  const known = NAMES[name] ?? name;
  return Object.hasOwn(LANGUAGES, known) ? known : null;
}

const SIGNS = [
  ["c", /^\s*#\s*include\b|^(int|void|template)\b.*[({<]/m],
  ["rust", /^\s*(pub )?(fn|impl|struct|use) \w+.*[{;(]/m],
  ["go", /^package \w+$|^func .*\{$/m],
  ["python", /^\s*(def|class) \w+.*:?\s*$|^\s*(import|from) [\w.]+|^\s*@\w+/m],
  ["javascript", /^\s*(const|let|export|function) \w+/m],
  ["sql", /^\s*(select|insert into|create table)\b/im],
  ["markup", /^\s*<[!?a-zA-Z]/],
  ["json", /^\s*[{[]\s*["{[\]}]/],
];

// Of a text that does not say what it is; "" where nothing tells.
export const guessLanguage = (text) => SIGNS.find(([, sign]) => sign.test(text.slice(0, 4000)))?.[0] ?? "";

export function highlightLine(language, line, state = null) {
  const rules = language === null ? null : LANGUAGES[language];
  if (!rules || line.length > 2000) return { tokens: [["", line]], state: null };
  if (rules.diff) return { tokens: [[diffKind(line), line]], state: null };
  if (rules.markup) return markupLine(line, state);
  return new LineReader(rules, line, state).read();
}

function diffKind(line) {
  if (/^(\+\+\+|---|diff |index )/.test(line)) return "k";
  if (line.startsWith("@@")) return "f";
  return line.startsWith("+") ? "i" : line.startsWith("-") ? "d" : "";
}

// state: null, or the text that closes what is open: */, """, ''' or `.
class LineReader {
  constructor(rules, line, state) {
    this.rules = rules;
    this.line = line;
    this.open = state;
    this.at = 0;
    this.tokens = [];
  }

  push(kind, end) {
    if (end > this.at) this.tokens.push([kind, this.line.slice(this.at, end)]);
    this.at = end;
  }

  read() {
    if (this.open !== null) this.readOpen(this.at);
    if (this.rules.preprocessor && this.at === 0) {
      const start = /^\s*#\s*\w+/.exec(this.line);
      if (start) this.push("k", start[0].length);
    }
    while (this.at < this.line.length) this.step();
    return { tokens: this.tokens, state: this.open };
  }

  // To the end of what is open, or of the line. from: where to look for the end; a token begins at this.at.
  readOpen(from) {
    const closer = this.open;
    let at = from;
    while (at < this.line.length) {
      if (closer !== "*/" && closer !== "`raw" && this.line[at] === "\\") at += 2;
      else if (this.line.startsWith(closer === "`raw" ? "`" : closer, at)) {
        this.open = null;
        at += closer === "`raw" ? 1 : closer.length;
        break;
      } else at += 1;
    }
    this.push(closer === "*/" ? "c" : "s", Math.min(at, this.line.length));
  }

  step() {
    const { rules, line, at } = this;
    const rest = line.slice(at);
    if (rules.line?.some((mark) => line.startsWith(mark, at)) && this.commentMayStart(at)) {
      return this.push("c", line.length);
    }
    if (rules.block && line.startsWith(rules.block[0], at)) {
      this.open = "*/";
      return this.readOpen(at + 2);
    }
    const special = this.stringStart(rest);
    if (special) return undefined;
    const number = /^(0[xXbBoO][\da-fA-F_]+|\d[\d_]*(\.\d[\d_]*)?([eE][+-]?\d+)?)\w*/.exec(rest);
    if (number) return this.push("n", at + number[0].length);
    const word = (rules.css ? /^[@.#]?-{0,2}[A-Za-z_][\w-]*/ : /^[A-Za-z_$@][\w$]*/).exec(rest);
    if (word) return this.push(this.wordKind(word[0], rest.slice(word[0].length)), at + word[0].length);
    const plain = rules.css ? /^[^\w"'/@.#-]+/.exec(rest) : /^[^\w"'`/#\-$@]+/.exec(rest);
    return this.push("", at + (plain ? plain[0].length : 1));
  }

  commentMayStart(at) {
    return !this.rules.hashNeedsSpace || at === 0 || /\s/.test(this.line[at - 1]);
  }

  stringStart(rest) {
    const { rules, at } = this;
    const prefix = rules.prefixes ? /^[rRbBfFuU]{1,2}(?=["'])/.exec(rest)?.[0].length ?? 0 : 0;
    const mark = rest[prefix];
    if ((rules.template || rules.raw) && rest[0] === "`") {
      this.open = rules.raw ? "`raw" : "`";
      this.readOpen(at + 1);
      return true;
    }
    if (rules.variables) {
      const variable = /^\$(\{[^}]*\}|\w+|[#?@*!$])/.exec(rest);
      if (variable) {
        this.push("a", at + variable[0].length);
        return true;
      }
    }
    if (rules.chars) {
      const char = /^'(\\.[^']*|[^'\\])'/.exec(rest);
      if (char) {
        this.push("s", at + char[0].length);
        return true;
      }
    }
    if (!rules.quotes?.includes(mark)) return false;
    if (rules.triple && rest.startsWith(mark.repeat(3), prefix)) {
      this.open = mark.repeat(3);
      this.readOpen(at + prefix + 3);
      return true;
    }
    let end = prefix + 1;
    while (end < rest.length && rest[end] !== mark) end += rest[end] === "\\" ? 2 : 1;
    end = Math.min(end + 1, rest.length);
    const isKey = rules.keys && /^\s*:/.test(rest.slice(end));
    this.push(isKey ? "a" : "s", at + end);
    return true;
  }

  wordKind(word, after) {
    const { rules } = this;
    const known = rules.anyCase ? word.toLowerCase() : word;
    if (rules.css) {
      if (word.startsWith("@")) return "k";
      if (/^\s*:/.test(after) && !/[{]\s*$/.test(this.line)) return "a";
      return /^[.#]/.test(word) ? "t" : "";
    }
    if (rules.yamlKeys && /^\s*[:=](\s|$)/.test(after)) return "a";
    if (rules.keywords.has(known)) return "k";
    if (rules.constants.has(known)) return "t";
    if (word.startsWith("@")) return "f";
    if (/^\s*\(/.test(after)) return "f";
    return /^[A-Z][a-z]/.test(word) ? "t" : "";
  }
}

// state: null, "<!--" within a comment, "<" within a tag.
function markupLine(line, state) {
  const tokens = [];
  let at = 0;
  let open = state;
  const push = (kind, end) => {
    if (end > at) tokens.push([kind, line.slice(at, end)]);
    at = end;
  };
  while (at < line.length) {
    if (open === "<!--") {
      const end = line.indexOf("-->", at);
      push("c", end < 0 ? line.length : end + 3);
      if (end >= 0) open = null;
    } else if (open === "<") {
      const part = /^(\s+|\/?>|[\w:@.-]+|"[^"]*"?|'[^']*'?|.)/.exec(line.slice(at))[0];
      push(/^["']/.test(part) ? "s" : /^\w/.test(part) ? "a" : /^\/?>/.test(part) ? "t" : "", at + part.length);
      if (part.endsWith(">") && !/^["']/.test(part)) open = null;
    } else if (line.startsWith("<!--", at)) {
      open = "<!--";
    } else {
      const tag = /^<[/!?]?[A-Za-z][\w:.-]*/.exec(line.slice(at));
      if (tag) {
        push("t", at + tag[0].length);
        open = "<";
      } else {
        const next = line.indexOf("<", at + 1);
        push("", next < 0 ? line.length : next);
      }
    }
  }
  return { tokens, state: open };
}
