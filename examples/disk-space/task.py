import shutil
import sys


def main():
    disk = shutil.disk_usage(params["path"])
    used = round(100 * (disk.total - disk.free) / disk.total, 1)
    free = disk.free / 1024**3
    print(f"{params['path']}: {used} % used, {free:.1f} GiB free")
    if used >= float(params["warn_percent"]):
        sys.exit(f"{params['path']} is {used} % full")
    return {"path": params["path"], "used_percent": used, "free_gib": round(free, 1)}
