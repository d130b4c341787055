def main():
    for _ in range(int(params["times"])):
        print(f"Hello, {params['name']}!")
    return {"greeted": params["name"]}
