.PHONY: style test quickstart
style:
	ruff check --fix .
	ruff format .
test:
	bash scripts/test.sh
quickstart:
	bash scripts/quickstart.sh
