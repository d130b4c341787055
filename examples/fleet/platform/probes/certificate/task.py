import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))  # an include keeps its place relative to the task
import certificates  # noqa: E402


def main():
    left = certificates.days_left(params["host"])
    print(f"{params['host']}: {left:.0f} days left")
    if left < float(params["days"]):
        raise SystemExit(f"the certificate of {params['host']} ends in {left:.0f} days")
    return {"host": params["host"], "days": round(left)}
