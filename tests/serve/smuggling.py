"""A corpus of HTTP/1.1 that two parsers could read differently, made by rules from RFC 9110 and RFC 9112.

Each case is the bytes of one request, or what somebody would like to pass for one; `TARGET` in it is replaced by the
path that is asked. Some are good on purpose: a server that refuses everything must not pass either.
"""

from __future__ import annotations

from collections.abc import Callable

# fmt: off
# Values stand in rows: one a line would bury the rules.
TARGET = b"{TARGET}"
BODY = b'{"petal length":1,"petal width":1}'
SIZE = b"%x" % len(BODY)
LENGTH = b"%d" % len(BODY)
CHUNKS = SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
KEY = b"Authorization: Bearer dh_owner"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: hall\r\n\r\n"
"""What a smuggler wants to have answered."""

GOOD = {
    "plain": b"POST {TARGET} HTTP/1.1\r\nHost: hall\r\n" + KEY + b"\r\nContent-Length: " + LENGTH + b"\r\n\r\n" + BODY,
    "chunked": b"POST {TARGET} HTTP/1.1\r\nHost: hall\r\n" + KEY + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
}


def post(*headers: bytes, body: bytes = BODY, first: bytes = b"POST {TARGET} HTTP/1.1", host: bytes = b"hall") -> bytes:
    """Return a request with these header lines, whatever they are."""
    return b"\r\n".join((first, b"Host: " + host, KEY, *headers, b"", b"")) + body


def sized(*headers: bytes, **parts: bytes) -> bytes:
    """Return a request that is good but for `headers` or `parts`."""
    return post(*headers, b"Content-Length: " + LENGTH, **parts)


def chunked(body: bytes) -> bytes:
    """Return a request whose chunks are `body`."""
    return post(b"Transfer-Encoding: chunked", body=body)


def _named(cases: list[bytes], label: str = "") -> dict[str, bytes]:
    return {f"{label}{index}": case for index, case in enumerate(cases)}


def _each(values: list[bytes], make: Callable[[bytes], bytes]) -> dict[str, bytes]:
    return {repr(value)[1:60] + (f"+{len(value)}" if len(value) > 58 else ""): make(value) for value in values}


def both_lengths() -> dict[str, bytes]:
    """RFC 9112 6.1: a request with both is an attack until proven otherwise."""
    chunks, hidden = b"Transfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN
    cases = []
    for length in (b"0", b"4", LENGTH, b"%d" % len(CHUNKS), b"%d" % len(hidden), b"1000"):
        for body in (CHUNKS, hidden):
            cases += [
                post(b"Content-Length: " + length, chunks, body=body),
                post(chunks, b"Content-Length: " + length, body=body),
            ]
    cases.append(post(b"Content-Length: 4", chunks, body=CHUNKS, first=b"POST {TARGET} HTTP/1.0"))
    return _named(cases)


def transfer_encodings() -> dict[str, bytes]:
    """RFC 9112 6.1 and 7: `chunked` is the last coding, once; nothing near it is it."""
    values = [b"xchunked", b" chunked", b"\tchunked", b"chunked ", b"chunked\t", b"\x0bchunked", b"\x0cchunked"]
    values += [b"chunked\x0b", b"chunked;q=1", b'"chunked"', b"'chunked'", b"chunked,", b",chunked", b"chunked, chunked"]
    values += [b"chunked, identity", b"identity, chunked", b"identity", b"gzip, chunked", b"chunked, gzip", b"gzip"]
    values += [b"CHUNKED", b"chunKed", b"chunk\0ed", b"chu nked", b"chunked\0", b"", b"chun\xe2\x84\xaaed", b"cow"]
    values += [b"chunked\r\n cow", b"\r\n chunked", b"chunked\n", b"chunked\x85", b"chunked\xa0", b"x chunked"]
    cases = _each(values, lambda value: post(b"Transfer-Encoding:" + value, body=CHUNKS))
    cases |= {f"{name} and a length": case for name, case in _with_lengths(values).items()}
    names = [b"Transfer-Encoding :", b" Transfer-Encoding:", b"Transfer-Encoding\t:", b"Transfer\0-Encoding:"]
    names += [b"\0Transfer-Encoding:", b"X: y\nTransfer-Encoding:", b"X: y\rTransfer-Encoding:", b"Transfer_Encoding:"]
    names += [b"Transfer-Encoding\0:", b"transfer-encoding:", b"TRANSFER-ENCODING:", b"Transfer-Encoding\x0b:"]
    cases |= _each(names, lambda name: post(name + b" chunked", body=CHUNKS))
    lengthy = b"Content-Length: %d" % len(CHUNKS)
    cases |= {f"{name} sized": case for name, case in _each(
        names, lambda name: post(lengthy, name + b" chunked", body=CHUNKS)).items()}
    for index, (one, two) in enumerate(
        [(b"chunked", b"identity"), (b"identity", b"chunked"), (b"chunked", b"chunked"), (b"cow", b"chunked"),
         (b"chunked", b"cow"), (b"", b"chunked"), (b"chunked", b""), (b"gzip", b"chunked")]
    ):
        headers = (b"Transfer-Encoding: " + one, b"transfer-Encoding: " + two)
        cases[f"two {index}"] = post(*headers, body=CHUNKS)
    cases["old version"] = post(b"Transfer-Encoding: chunked", body=CHUNKS, first=b"POST {TARGET} HTTP/1.0")
    return cases


def _with_lengths(values: list[bytes]) -> dict[str, bytes]:
    length = b"Content-Length: %d" % len(CHUNKS)
    return _each(values[::3], lambda value: post(length, b"Transfer-Encoding:" + value, body=CHUNKS))


def content_lengths() -> dict[str, bytes]:
    """RFC 9110 8.6: digits, once, and nothing else."""
    values = [b"+34", b"-34", b"0x22", b"34, 34", b"34,35", b"34,", b",34", b"34 ", b"34\t", b"\t34", b"3 4", b"34;"]
    values += [b"34.0", b"3.4e1", b"", b" ", b"\xd9\xa3\xd9\xa4", b"034", b"0" * 20 + b"34", b"9" * 20]
    values += [b"18446744073709551650", b"4294967330", b"-0", b"+0", b"34\0", b"34\x0b", b"NaN", b"\x0034"]
    values += [b"34\r\n 5", b"\r\n 34", b'"34"', b"34 35", b"34\n", b"3_4", b"1e2", b"34\x85", b"0o42", b"\xef\xbc\x93\xef\xbc\x94"]
    cases = _each(values, lambda value: post(b"Content-Length:" + value))
    pairs = [(b"34", b"34"), (b"34", b"35"), (b"0", b"34"), (b"34", b"0"), (b"34", b""), (b"", b"34"), (b"2", b"+34")]
    for one, two in pairs:
        cases[f"{one!r} then {two!r}"] = post(b"Content-Length: " + one, b"content-length: " + two)
    names = [b"Content-Length :", b"Content-Length\t:", b"Content Length:", b"Content-Length\0:", b" Content-Length:"]
    names += [b"Content_Length:", b"X: y\nContent-Length:", b"X: y\rContent-Length:", b"Content-Length\x0b:"]
    cases |= _each(names, lambda name: post(name + b" 34"))
    cases["shorter than the body"] = post(b"Content-Length: 30")
    cases["a request in the rest"] = post(b"Content-Length: 0", body=HIDDEN)
    return cases


def chunk_sizes() -> dict[str, bytes]:
    """RFC 9112 7.1: hexadecimal digits; an overflow is refused, not wrapped."""
    values = [b"0x22", b"+22", b"-22", b" 22", b"22 ", b"\t22", b"22\t", b"2 2", b"2_2", b"22,22", b"22h", b"g", b"", b"022"]
    values += [b"0" * 14 + b"22", b"0" * 300 + b"22", b"f" * 16, b"1" + b"0" * 14 + b"22", b"f" * 17, b"8" + b"0" * 15]
    values += [b"\x0022", b"22\0", b"\xef\xbc\x92\xef\xbc\x92", b"22\r", b"\r\n22", b"\n22", b"22.", b"22\x0b", b"23", b"21"]
    cases = _each(values, lambda value: chunked(value + b"\r\n" + BODY + b"\r\n0\r\n\r\n"))
    cases["bare line feed"] = chunked(SIZE + b"\n" + BODY + b"\r\n0\r\n\r\n")
    return cases


def chunk_extensions() -> dict[str, bytes]:
    """RFC 9112 7.1.1: ignored where they are well-formed; a line feed in one is the classic that splits parsers."""
    values = [b";ext", b";ext=val", b';ext="v"', b" ;ext", b"; ext", b";", b";=", b';a="open', b";ext\nX", b";ext\rX", b";\0"]
    values += [b";a=b;c=d", b';a="\r\n"', b"; \x7f", b";" + b"x" * 20_000, b";a=\xff", b';a="\\""', b" ext", b";a\n" + SIZE]
    cases = _each(values, lambda value: chunked(SIZE + value + b"\r\n" + BODY + b"\r\n0\r\n\r\n"))
    hidden = b"0\r\n\r\n" + HIDDEN
    cases["a hidden size"] = chunked(SIZE + b";\n" + b"x" * 2 + b"\r\n" + hidden)
    return cases


def chunk_ends() -> dict[str, bytes]:
    """RFC 9112 7.1: each chunk ends with CRLF, the body with a chunk of size 0, and then trailers."""
    ends = [b"", b"\n", b"\r", b"XX", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\r\n\n", b" \r\n", b"\0\r\n", b"\n\n"]
    cases = _each(ends, lambda end: chunked(SIZE + b"\r\n" + BODY + end + b"0\r\n\r\n"))
    lasts = [b"0\r\n", b"0", b"0\r\n\n", b"0\n\n", b"0\n\r\n", b"0\r\r\n\r\n", b"00\r\n\r\n", b"0;ext\r\n\r\n", b"-0\r\n\r\n"]
    lasts += [b"0 \r\n\r\n", b"0x0\r\n\r\n", b"000000000000000000000\r\n\r\n", b"0\r\n\rX", b"0\r\n \r\n", b"\r\n\r\n"]
    cases |= {f"last {name}": case for name, case in _each(
        lasts, lambda last: chunked(SIZE + b"\r\n" + BODY + b"\r\n" + last)).items()}
    cases["no last chunk"] = chunked(SIZE + b"\r\n" + BODY + b"\r\n")
    return cases


def trailers() -> dict[str, bytes]:
    """RFC 9110 6.5: trailers change nothing about a request's framing, routing or authority."""
    lines = [b"X: y", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: evil", b"Authorization: Bearer x"]
    lines += [b"no colon", b" folded: x", b"X: a\0b", b"X: a\nY: b", b"X: a\rY: b", b"X : y", b": empty", b"X: y\r\n z", b"(): x"]
    lines += [b"Connection: close", b"X: " + b"y" * 40_000, b"\r\n".join(b"X%d: y" % index for index in range(150))]
    return _each(lines, lambda line: chunked(SIZE + b"\r\n" + BODY + b"\r\n0\r\n" + line + b"\r\n\r\n"))


def line_ends() -> dict[str, bytes]:
    """RFC 9112 2.2: CRLF; a bare CR is an error or a space, a bare LF must not be read in one place only."""
    good = sized()
    head, _, _ = good.partition(b"\r\n\r\n")
    cases = {
        "all line feeds": head.replace(b"\r\n", b"\n") + b"\n\n" + BODY,
        "end by line feeds": head + b"\n\n" + BODY,
        "end by CR": head + b"\r\r" + BODY,
        "end by LF CR": head + b"\n\r\n\r" + BODY,
        "end by CR CR LF": head + b"\r\r\n\r\n" + BODY,
        "first line by LF": good.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
        "first line by CR": good.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r"),
        "first line by CR CR LF": good.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\r\n"),
        "one header by LF": good.replace(b"Host: hall\r\n", b"Host: hall\n"),
        "one header by CR": good.replace(b"Host: hall\r\n", b"Host: hall\r"),
        "CR in a value": sized(b"X: a\rb"),
        "CR before a name": sized(b"\rX: a"),
        "LF in a value": sized(b"X: a\nb"),
        "a line of CR": sized(b"\r"),
        "a line of a space": sized(b" "),
        "a line of a tab": sized(b"\t"),
    }
    before = [b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"\x1a", b"\xef\xbb\xbf", b"\x0b", b"\r\n\r\n\r\n\r\n"]
    return cases | {f"before {name}": case for name, case in _each(before, lambda start: start + good).items()}


def header_syntax() -> dict[str, bytes]:
    """RFC 9110 5.1 and 5.5: names are tokens, values have no control bytes; RFC 9112 5.2: no folding."""
    lines = [b"no colon", b": no name", b"X Y: z", b"X : y", b"X\t: y", b"X\x0b: y", b"X\0: y", b"X: a\0b", b"X: a\x01b"]
    lines += [b"X: a\x7fb", b"X: a\x08b", b"X: \xff", b"X: \xc3\xa4", b"\xc3\xa4: x", b"X: a\r\n b", b"X: a\r\n\tb", b"X:"]
    lines += [b"X: a:b", b"X:a", b"X_Y: z", b"X: a\x1bb", b"X: " + b"y" * 20_000, b"X" * 20_000 + b": y", b"::", b":"]
    lines += [b"X%c: y" % mark for mark in b'()<>@,;\\"/[]?={}']
    cases = _each(lines, sized)
    cases["fold of the first header"] = sized(first=b"POST {TARGET} HTTP/1.1\r\n X: y")
    names = [b"Host", b"Content-Length", b"Authorization"]
    return cases | {f"Connection: {name!r}": sized(b"Connection: " + name) for name in names}


def methods() -> dict[str, bytes]:
    """RFC 9110 9: a method is a token and case counts."""
    values = [b"post", b"Post", b"P OST", b"POST\t", b"", b"PO\0ST", b"FOO", b"POST/", b'"POST"', b"POST(", b"P" * 20_000]
    cases = _each(values, lambda method: sized(first=method + b" {TARGET} HTTP/1.1"))
    bare = [b"GET", b"HEAD", b"TRACE", b"CONNECT", b"PRI", b"M-SEARCH", b"SOURCE", b"OPTIONS", b"get", b"TRACK"]
    return cases | {f"bare {name}": case for name, case in _each(
        bare, lambda method: post(first=method + b" {TARGET} HTTP/1.1", body=b"")).items()}


def first_lines() -> dict[str, bytes]:
    """RFC 9112 3: method SP target SP HTTP-version, and nothing else."""
    versions = [b"http/1.1", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/2", b"HTTP/3.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/1."]
    versions += [b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.1x", b"HTTP /1.1", b"HTTP/1 .1", b"HTTP/+1.1", b"HTTP/-1.1", b"ICE/1.0"]
    versions += [b"RTSP/1.0", b"XTTP/1.1", b"HTTP/1.1 HTTP/1.1", b"HTTP/1,1", b"HTTP/1.\xc2\xb9", b"", b"HTTP", b"HTTP/1.0"]
    cases = _each(versions, lambda version: sized(first=b"POST {TARGET} " + version))
    lines = {
        "two spaces": b"POST  {TARGET} HTTP/1.1", "two spaces before the version": b"POST {TARGET}  HTTP/1.1",
        "tab": b"POST\t{TARGET}\tHTTP/1.1", "tab before the version": b"POST {TARGET}\tHTTP/1.1",
        "space at the end": b"POST {TARGET} HTTP/1.1 ", "tab at the end": b"POST {TARGET} HTTP/1.1\t",
        "no target": b"POST HTTP/1.1", "no target, two spaces": b"POST  HTTP/1.1", "no version": b"POST {TARGET}",
        "vertical tab": b"POST\x0b{TARGET} HTTP/1.1", "form feed": b"POST {TARGET}\x0cHTTP/1.1",
        "no-break space": b"POST {TARGET}\xa0HTTP/1.1",
    }
    cases |= {name: sized(first=line) for name, line in lines.items()}
    cases["ICE/1.0"] = sized(first=b"SOURCE {TARGET} ICE/1.0")
    cases["RTSP/1.0 with a method of its own"] = sized(first=b"DESCRIBE {TARGET} RTSP/1.0")
    cases["HTTP/0.9"] = b"GET {TARGET}\r\n"
    cases["HTTP/0.9 twice"] = b"GET {TARGET}\r\n\r\n"
    cases["HTTP/2 preface"] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
    cases["TLS"] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)
    cases["SOCKS"] = b"\x05\x01\x00"
    return cases


def targets() -> dict[str, bytes]:
    """RFC 9112 3.2: four forms; RFC 3986: what a path is made of."""
    values = [b"http://hall{TARGET}", b"https://hall{TARGET}", b"http://hall", b"http://other{TARGET}", b"http://u@hall{TARGET}"]
    values += [b"ftp://hall{TARGET}", b"/{TARGET}", b"hall{TARGET}", b"*", b"hall:80", b"{TARGET}#x", b"{TARGET}?#x", b"{TARGET} x"]
    values += [b"{TARGET}\0", b"{TARGET}%", b"{TARGET}%0", b"{TARGET}%zz", b"{TARGET}%00", b"{TARGET}%0d%0aX:y", b"/..%2f..{TARGET}"]
    values += [b"/..{TARGET}", b"/../..{TARGET}", b"/%2e%2e{TARGET}", b"/.{TARGET}", b"{TARGET}/..", b"{TARGET}/%ff", b"/%c0%af{TARGET}"]
    values += [b"\\{TARGET}", b"{TARGET}\\", b"{TARGET}\x80", b"{TARGET}\xc3\xa4", b"{TARGET}\tx", b"{TARGET}|x", b"?x", b"http:///x"]
    values += [b"http://[::1{TARGET}", b"http://hall:99999{TARGET}", b"http://hall:x{TARGET}", b"http:{TARGET}", b"{TARGET}?a=\0"]
    values += [b"{TARGET}?%", b"{TARGET}?a b", b"{TARGET};x", b"%2f{TARGET}", b"{TARGET}\x7f", b"{TARGET}\x0b", b"//hall{TARGET}"]
    values += [b"http://hall?x", b"http://hall#x", b"HTTP://hall{TARGET}", b"x://hall{TARGET}", b"javascript:1", b"{TARGET}%u002e"]
    values += [b"{TARGET}/a/../b", b"{TARGET}?x=%00", b"{TARGET}<x>", b'{TARGET}"x"', b"/" + b"a" * 20_000, b"{TARGET}%5c.."]
    return _each(values, lambda target: sized(first=b"POST " + target + b" HTTP/1.1")) | {
        "OPTIONS *": post(first=b"OPTIONS * HTTP/1.1", body=b""),
        "CONNECT": post(first=b"CONNECT hall:443 HTTP/1.1", body=b""),
        "CONNECT with a body": sized(first=b"CONNECT hall:443 HTTP/1.1"),
    }


def hosts() -> dict[str, bytes]:
    """RFC 9112 3.2: exactly one Host, a name and perhaps a port."""
    values = [b"", b" ", b"a, b", b"a b", b"u@hall", b"u:p@hall", b"hall:80", b"hall:", b"hall:x", b"hall:99999", b"[::1]", b"[::1"]
    values += [b"hall/x", b"http://hall", b"hall\0", b"hall\tx", b"hall#x", b"hall?x", b"<x>", b"ha%6cl", b"%", b"..", b"hall..", b"_"]
    values += [b"h\xc3\xa4ll", b"h" * 300, b"\xff", b"hall\x7f", b"hall\\x", b"127.0.0.1:7400", b"[::1]:80", b"hall:80:80", b"hall,"]
    values += [b"hall\r\n x", b"hall:-1", b"hall:+80", b"hall:\xd9\xa3", b"::1", b"[]", b"[hall]", b"hall;x", b'"hall"', b"hall|x"]
    cases = _each(values, lambda host: sized(host=host))
    bare = b"POST {TARGET} HTTP/1.%d\r\n" + KEY + b"\r\n%bContent-Length: " + LENGTH + b"\r\n\r\n" + BODY
    cases["none"] = bare % (1, b"")
    cases["none, HTTP/1.0"] = bare % (0, b"")
    cases["twice"] = bare % (1, b"Host: hall\r\nHost: hall\r\n")
    cases["two"] = bare % (1, b"Host: hall\r\nhost: other\r\n")
    cases["two, HTTP/1.0"] = bare % (0, b"Host: hall\r\nhost: other\r\n")
    cases["space before the colon"] = bare % (1, b"Host : hall\r\n")
    cases["space before the name"] = bare % (1, b" Host: hall\r\n")
    return cases


def expectations() -> dict[str, bytes]:
    """RFC 9110 10.1.1, and upgrades (7.8), which nothing here offers."""
    values = [b"100-continue", b"100-Continue", b"200-ok", b"", b"100-continue, x", b"x", b"100-continue\0"]
    cases = {f"Expect {name}": case for name, case in _each(values, lambda value: sized(b"Expect: " + value)).items()}
    cases["Expect twice"] = sized(b"Expect: 100-continue", b"Expect: x")
    cases["Expect, HTTP/1.0"] = sized(b"Expect: 100-continue", first=b"POST {TARGET} HTTP/1.0")
    cases["Expect without a body"] = post(b"Expect: 100-continue", first=b"GET {TARGET} HTTP/1.1", body=b"")
    for name in (b"h2c", b"websocket", b"TLS/1.0", b"x"):
        cases[f"Upgrade {name!r}"] = sized(b"Connection: Upgrade", b"Upgrade: " + name)
        cases[f"Upgrade {name!r} alone"] = sized(b"Upgrade: " + name)
        get = post(b"Connection: Upgrade", b"Upgrade: " + name, first=b"GET {TARGET} HTTP/1.1", body=b"")
        cases[f"Upgrade {name!r} of a GET"] = get
    cases["Connection: Upgrade alone"] = sized(b"Connection: Upgrade")
    settings = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    cases["h2c smuggling"] = sized(*settings)
    return cases


def bodies() -> dict[str, bytes]:
    """Bodies where some server expects none, and requests that follow a wrong one."""
    cases = {}
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
        first = method + b" {TARGET} HTTP/1.1"
        cases[f"{method!r} with a length"] = sized(first=first)
        cases[f"{method!r} with chunks"] = post(b"Transfer-Encoding: chunked", first=first, body=CHUNKS)
        length = b"Content-Length: %d" % len(HIDDEN)
        cases[f"{method!r} with a request as its body"] = post(length, first=first, body=HIDDEN)
        cases[f"{method!r} with a length of 0"] = post(b"Content-Length: 0", first=first, body=b"")
    cases["no length at all"] = post()
    cases["HTTP/1.0 without a length"] = post(first=b"POST {TARGET} HTTP/1.0")
    cases["HTTP/1.0 kept alive"] = sized(b"Connection: keep-alive", first=b"POST {TARGET} HTTP/1.0")
    cases["an error, then a request"] = post(b"Content-Length: x", body=HIDDEN)
    cases["close, then a request"] = sized(b"Connection: close") + HIDDEN
    cases["Connection: close, keep-alive"] = sized(b"Connection: close, keep-alive") + HIDDEN
    cases["a method override"] = sized(b"X-HTTP-Method-Override: DELETE")
    cases["a target override"] = sized(b"X-Original-URL: /hidden", b"X-Rewrite-URL: /hidden")
    cases["a length of the future"] = post(b"Content-Length: 1000")
    return cases


FAMILIES = {
    make.__name__: make()
    for make in (
        both_lengths, transfer_encodings, content_lengths, chunk_sizes, chunk_extensions, chunk_ends, trailers,
        line_ends, header_syntax, methods, first_lines, targets, hosts, expectations, bodies,
    )
}
