// The operators whose cost docs/hardware.md compares. Plain Verilog-2005, nothing vendor's; bench/hardware/operators.py
// sets the parameters of a weight format from core/formats.py and names the tops.

// a times the magnitude of a weight. Every magnitude of a shift format is 0, 2^k, or 2^k + 2^(k+d):
// index -> (K, D) is a table of constants, which synthesis turns into a few gates (for plain powers: into wires).
module magnitude #(
    parameter A = 8,                      // bits of the activation, signed
    parameter I = 2,                      // bits of the index
    parameter P = 12,                     // bits of the product
    parameter KB = 2,                     // bits of a shift
    parameter FAR = 0,                    // largest D; 0: every magnitude is one power of two
    parameter ZERO = 0,                   // 1: index 0 means 0
    parameter [(KB << I) - 1:0] K = 0,    // shift of the lower power
    parameter [(4 << I) - 1:0] D = 0      // distance of the upper power, 0 where there is none
) (
    input signed [A-1:0] a,
    input [I-1:0] index,
    output signed [P-1:0] p
);
    wire [KB-1:0] k = K[KB * index +: KB];
    wire [3:0] d = D[4 * index +: 4];
    wire signed [A-1:0] lower = ZERO ? a & {A{index != 0}} : a;
    reg signed [A+FAR:0] upper;           // the second power, by selection: D takes few values
    integer j;
    always @* begin
        upper = 0;
        for (j = 1; j <= FAR; j = j + 1)
            if (d == j) upper = a <<< j;
    end
    wire signed [A+FAR:0] sum = FAR ? lower + upper : lower;
    wire signed [P-1:0] wide = sum;
    assign p = wide <<< k;
endmodule

// Products: exact, sign and magnitude code for a shift format, two's complement for an integer weight.
module mul_shift #(
    parameter A = 8, I = 2, P = 12, KB = 2, FAR = 0, ZERO = 0,
    parameter [(KB << I) - 1:0] K = 0, parameter [(4 << I) - 1:0] D = 0
) (
    input signed [A-1:0] a, input negative, input [I-1:0] index, output signed [P-1:0] p
);
    wire signed [P-1:0] m;
    magnitude #(A, I, P, KB, FAR, ZERO, K, D) u (a, index, m);
    assign p = negative ? -m : m;
endmodule

module mul_int #(parameter A = 8, W = 8) (
    input signed [A-1:0] a, input signed [W-1:0] w, output signed [A+W-1:0] p
);
    assign p = a * w;
endmodule

// Accumulator + product, without the register: what the proofs look at. A negative weight costs an exclusive-or and
// the adder's carry-in, no second adder.
module add_shift #(
    parameter A = 8, I = 2, P = 12, KB = 2, FAR = 0, ZERO = 0, ACC = 24,
    parameter [(KB << I) - 1:0] K = 0, parameter [(4 << I) - 1:0] D = 0
) (
    input [ACC-1:0] acc, input signed [A-1:0] a, input negative, input [I-1:0] index, output [ACC-1:0] sum
);
    wire signed [P-1:0] m;
    magnitude #(A, I, P, KB, FAR, ZERO, K, D) u (a, index, m);
    wire signed [ACC-1:0] wide = m;
    assign sum = acc + (wide ^ {ACC{negative}}) + negative;
endmodule

// Multiply-accumulate with its register.
module mac_shift #(
    parameter A = 8, I = 2, P = 12, KB = 2, FAR = 0, ZERO = 0, ACC = 24,
    parameter [(KB << I) - 1:0] K = 0, parameter [(4 << I) - 1:0] D = 0
) (
    input clk, input clear, input signed [A-1:0] a, input negative, input [I-1:0] index, output reg [ACC-1:0] acc
);
    wire [ACC-1:0] sum;
    add_shift #(A, I, P, KB, FAR, ZERO, ACC, K, D) u (acc, a, negative, index, sum);
    always @(posedge clk) acc <= clear ? {ACC{1'b0}} : sum;
endmodule

// One expression: yosys then adds the accumulator inside the multiplier's carry-save tree, which is smaller and faster.
module mac_int #(parameter A = 8, W = 8, ACC = 24) (
    input clk, input clear, input signed [A-1:0] a, input signed [W-1:0] w, output reg signed [ACC-1:0] acc
);
    always @(posedge clk) acc <= clear ? {ACC{1'b0}} : acc + a * w;
endmodule

// N products into one accumulator: the unit of an accelerator. Its adder tree is shared by all kinds of weights.
module dot_shift #(
    parameter N = 16, A = 8, I = 2, P = 12, KB = 2, FAR = 0, ZERO = 0, ACC = 24,
    parameter [(KB << I) - 1:0] K = 0, parameter [(4 << I) - 1:0] D = 0
) (
    input clk, input clear, input [N*A-1:0] a, input [N-1:0] negative, input [N*I-1:0] index, output reg [ACC-1:0] acc
);
    wire [N*P-1:0] m;
    genvar g;
    generate for (g = 0; g < N; g = g + 1) begin : lane
        magnitude #(A, I, P, KB, FAR, ZERO, K, D) u (a[A*g +: A], index[I*g +: I], m[P*g +: P]);
    end endgenerate
    reg signed [P+$clog2(N)-1:0] products;   // each one's complement where the weight is negative
    reg [$clog2(N):0] negatives;             // what the complements lack
    integer i;
    always @* begin
        products = 0;
        negatives = 0;
        for (i = 0; i < N; i = i + 1) begin
            products = products + $signed(m[P*i +: P] ^ {P{negative[i]}});
            negatives = negatives + negative[i];
        end
    end
    wire signed [ACC-1:0] wide = products;   // the sum below has unsigned terms and would extend without the sign
    always @(posedge clk) acc <= clear ? {ACC{1'b0}} : acc + wide + negatives;
endmodule

module dot_int #(parameter N = 16, A = 8, W = 8, ACC = 24) (
    input clk, input clear, input [N*A-1:0] a, input [N*W-1:0] w, output reg [ACC-1:0] acc
);
    reg signed [ACC-1:0] sum;
    integer i;
    always @* begin
        sum = 0;
        for (i = 0; i < N; i = i + 1) sum = sum + $signed(a[A*i +: A]) * $signed(w[W*i +: W]);
    end
    always @(posedge clk) acc <= clear ? {ACC{1'b0}} : acc + sum;
endmodule

// Rule 4 to 8 bits: clamp((acc * mult + offset) >> shift), M bits of an unsigned mult, or none.
module requantize_shift #(parameter X = 32, S = 5) (
    input signed [X-1:0] acc, input signed [X-1:0] offset, input [S-1:0] shift, output signed [7:0] y
);
    wire signed [X:0] v = (acc + offset) >>> shift;
    assign y = v > 127 ? 8'sd127 : v < -128 ? -8'sd128 : v[7:0];
endmodule

module requantize_mult #(parameter X = 32, M = 16, S = 6) (
    input signed [X-1:0] acc, input [M-1:0] mult, input signed [X+M-1:0] offset, input [S-1:0] shift, output signed [7:0] y
);
    wire signed [X+M:0] product = acc * $signed({1'b0, mult});
    wire signed [X+M:0] v = (product + offset) >>> shift;
    assign y = v > 127 ? 8'sd127 : v < -128 ? -8'sd128 : v[7:0];
endmodule

// The usual one of int8 engines: mult is M bits of a fraction, the product's upper half is rounded, then shifted with
// rounding. Its offset is an addition before it, and its shift is of X + 1 bits, not of all X + M of the product.
module requantize_high #(parameter X = 32, M = 31, S = 5) (
    input signed [X-1:0] acc, input [M-1:0] mult, input [S-1:0] shift, output signed [7:0] y
);
    wire signed [X+M:0] product = acc * $signed({1'b0, mult}) + $signed({{X{1'b0}}, 2'b01, {(M - 1){1'b0}}});
    wire signed [X:0] high = product >>> M;
    wire signed [X:0] half = ($signed({{X{1'b0}}, 1'b1}) <<< shift) >>> 1;
    wire signed [X:0] v = (high + half) >>> shift;
    assign y = v > 127 ? 8'sd127 : v < -128 ? -8'sd128 : v[7:0];
endmodule

module add #(parameter W = 32) (input [W-1:0] a, input [W-1:0] b, output [W-1:0] s);
    assign s = a + b;
endmodule

// Half precision, subnormals as zero, overflow to infinity: a product rounded to nearest, ties to even, and the product
// with +-2^k, k from 0 to 3, which adds k to the exponent. No NaN or infinity comes in.
module mul_half (input [15:0] a, input [15:0] b, output [15:0] p);
    wire sign = a[15] ^ b[15];
    wire zero = a[14:10] == 0 || b[14:10] == 0;
    wire [21:0] product = {1'b1, a[9:0]} * {1'b1, b[9:0]};
    wire [21:0] normal = product[21] ? product : product << 1;
    wire up = normal[10] & (normal[11] | (normal[9:0] != 0));
    wire [11:0] rounded = {1'b0, normal[21:11]} + up;
    wire signed [7:0] exponent = $signed({3'b0, a[14:10]}) + $signed({3'b0, b[14:10]}) - 8'sd15
        + $signed({7'b0, product[21]}) + $signed({7'b0, rounded[11]});
    assign p = zero || exponent <= 0 ? {sign, 15'd0}
        : exponent >= 31 ? {sign, 5'd31, 10'd0} : {sign, exponent[4:0], rounded[11] ? rounded[10:1] : rounded[9:0]};
endmodule

module shift_half (input [15:0] a, input negative, input [1:0] k, output [15:0] p);
    wire sign = a[15] ^ negative;
    wire [5:0] exponent = a[14:10] + k;
    assign p = a[14:10] == 0 ? {sign, 15'd0} : exponent >= 31 ? {sign, 5'd31, 10'd0} : {sign, exponent[4:0], a[9:0]};
endmodule
