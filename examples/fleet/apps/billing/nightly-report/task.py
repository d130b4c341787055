import os


def main():
    print(f"report in {params['currency']} for {os.environ['REGION']}")
    return {"currency": params["currency"]}
