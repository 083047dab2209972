"""What people see of a run elsewhere: Weights & Biases, TensorBoard, MLflow, and whatever logger Lightning has."""
