"""provisional"""
import re
_U={"ms":0.001,"s":1.0,"m":60.0,"h":3600.0,"d":86400.0}
def parse_duration_s(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text): return float(text)
    parts=re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(a+b for a,b in parts)!=text: raise ValueError("not a duration")
    return sum(float(a)*_U[b] for a,b in parts)
def format_duration(seconds: float) -> str:
    return f"{seconds:.3g}s"
