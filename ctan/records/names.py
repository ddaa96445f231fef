"""Names of the files that trainings and what follows them leave in their folders, of the cases' roles, of ensembles."""

MODEL_FILE, WEIGHTS_FILE, HISTORY_FILE = "model.json", "model.safetensors", "history.parquet"
EVALUATION_FILE, CASES_FILE, DVH_FILE, FIGURES_FILE = "summary.json", "cases.parquet", "dvh.parquet", "figures.npz"
COMPARISON_FILE, PREDICTION_FILE = "comparison.json", "prediction.json"
TUNING, EVALUATION = "tuning", "evaluation"  # the roles of cases
ENSEMBLE = "ensemble of"  # so many: in the name of one
