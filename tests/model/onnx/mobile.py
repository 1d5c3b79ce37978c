"""What onnxruntime's pre-built mobile packages can run.

Source: `tools/ci_build/github/android/mobile_package.required_operators.config` in microsoft/onnxruntime, from which
the packages `onnxruntime-mobile` (Android, the last is 1.18.0) and `onnxruntime-mobile-c` (iOS) were built. The manual
has the same list (onnxruntime.ai/docs/reference/operators/MobileOps.html), operator sets 12 to 15 for release 1.11.
Types: float, int8, uint8; int32 and int64 where shapes and indices are computed. The packages `onnxruntime-android` and
`onnxruntime-c` have all operators and types.
"""

_NAMES = """
    Abs Add And ArgMax ArgMin AveragePool Cast Ceil Clip Concat ConstantOfShape Conv ConvTranspose Cos CumSum
    DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor Gather GatherND Gemm
    GlobalAveragePool Greater GreaterOrEqual Identity If InstanceNormalization LRN LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop MatMul MatMulInteger Max MaxPool Mean Min Mul Neg NonMaxSuppression NonZero Not Or PRelu Pad Pow
    QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu
    Reshape Resize ReverseSequence Round Scan ScatterND Shape Sigmoid Sin Size Slice Softmax SpaceToDepth Split Sqrt
    Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unique Unsqueeze Where
"""
MOBILE_OPERATORS = set(_NAMES.split())
